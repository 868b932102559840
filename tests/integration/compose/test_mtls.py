"""compose.mtls.yaml with what `make certs` makes: an engine is led over TCP by its certificate alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose_file import COMPOSE_FILE, MTLS_FILE, ROOT, STATUS, load, services
from tests.support.compose_native import Differences, NativeStack
from tests.support.engine_server import free_port
from tests.support.stepped_engine import SteppedEngine


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    certs = tmp_path_factory.mktemp("certs")
    subprocess.run([str(ROOT / "scripts/certs.sh"), str(certs)], check=True, stdout=subprocess.DEVNULL)
    return load(COMPOSE_FILE, MTLS_FILE, variables={"CERTS_DIR": str(certs), "CERTS_GID": "1000"})


@pytest.fixture(scope="module")
def stack(project: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """The control service alone, healthy."""
    differences = Differences(
        ports={port: free_port() for port in (50051, 9464, 4317)},
        hosts=("control", "collector"),
        paths={f"/run/secrets/{name}": Path(secret["file"]) for name, secret in project["secrets"].items()},
        programs={"python3": sys.executable, "turbospec": str(Path(sys.executable).with_name("turbospec"))},
    )
    running = NativeStack(
        {"control": services(project)["control"]}, differences, tmp_path_factory.mktemp("mtls")
    )
    try:
        running.up()
        yield running
    finally:
        running.down()


@pytest.fixture
def engine_settings(project: dict[str, Any], stack: NativeStack) -> dict[str, str]:
    """TURBOSPEC_ variables of an engine's container that have to do with the connection."""
    environment = project["services"]["sglang-gpu"]["environment"]
    kept = ("TURBOSPEC_CONTROL_ADDRESS", "TURBOSPEC_TLS_")
    return {name: stack.here(value) for name, value in environment.items() if name.startswith(kept)}


def test_an_engine_with_a_certificate_is_led(engine_settings: dict[str, str]) -> None:
    engine = SteppedEngine(engine_settings.pop("TURBOSPEC_CONTROL_ADDRESS"), **engine_settings)
    engine.start()
    try:
        engine.run_until("lease", limit=5_000)
    finally:
        engine.control.close()


def test_an_engine_without_one_is_not(engine_settings: dict[str, str], stack: NativeStack) -> None:
    engine = SteppedEngine(engine_settings["TURBOSPEC_CONTROL_ADDRESS"])
    engine.start()
    try:
        for _ in range(1_000):
            engine.step()
        assert not engine.connected
    finally:
        engine.control.close()


def test_the_command_line_still_has_the_socket(stack: NativeStack) -> None:
    assert stack.run("control", STATUS).returncode == 0
