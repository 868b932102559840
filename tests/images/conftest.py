"""Images are built once for all tests; built again, unchanged layers are taken from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.podman import STAND_IN, Containers, build, make_stand_in
from tests.support.compose_file import Service, load, services
from tests.support.compose_native import Differences
from tests.support.engine_server import free_port


@pytest.fixture(scope="session")
def project() -> dict[str, Service]:
    return services(load(), "cpu")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="session")
def stand_in(scratch: Path) -> str:
    make_stand_in(scratch)
    return STAND_IN


@pytest.fixture(scope="session")
def control_image(project: dict[str, Service], stand_in: str, scratch: Path) -> str:
    return build(project["control"], scratch, {"PYTHON_IMAGE": stand_in})


@pytest.fixture(scope="session")
def engine_image(project: dict[str, Service], stand_in: str, scratch: Path) -> str:
    return build(project["sglang-cpu"], scratch, {"PYTHON_IMAGE": stand_in})


@pytest.fixture(scope="module")
def differences() -> Differences:
    """Containers share the host's network: only ports are different."""
    return Differences(
        ports={port: free_port() for port in (9464, 30000, 4317)},
        hosts=("control", "sglang", "collector"),
        paths={},
        programs={},
    )


@pytest.fixture(scope="module")
def containers(differences: Differences) -> Iterator[Containers]:
    running = Containers(differences)
    yield running
    running.remove()
