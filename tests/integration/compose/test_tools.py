"""What tests of compose.yaml and of the images rest on: reading compose files, and pip's configuration."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from tests.images.podman import write_pip_conf
from tests.support.compose_file import load, services, start_order
from tests.support.compose_native import Differences


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    below = tmp_path / "below.yaml"
    below.write_text(
        "services:\n"
        "  web:\n"
        "    command: run --port ${PORT:-80} $${HOME}\n"
        "    ports: [a]\n"
        "    environment: {KEPT: x, CHANGED: x}\n"
        "    depends_on: {base: {condition: service_healthy}}\n"
        "  base: {profiles: [small], command: [true]}\n"
        "  other: {profiles: [large], command: [true]}\n"
    )
    above = tmp_path / "above.yaml"
    above.write_text("services: {web: {ports: [b], environment: {CHANGED: '${KEY:?make one}'}}}\n")
    return below, above


def test_files_are_merged_and_variables_put_in(files: tuple[Path, Path]) -> None:
    chosen = services(load(*files, variables={"KEY": "k", "PORT": ""}), "small")
    assert chosen["web"].command == ["run", "--port", "80", "${HOME}"]
    assert chosen["web"].raw["ports"] == ["a", "b"]
    assert chosen["web"].environment == {"KEPT": "x", "CHANGED": "k"}
    assert set(chosen) == {"web", "base"}
    assert [service.name for service in start_order(chosen)] == ["base", "web"]


def test_a_variable_that_must_be_given_is_asked_for(files: tuple[Path, Path]) -> None:
    with pytest.raises(KeyError, match="KEY: make one"):
        load(*files)


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("http://control:9464/metrics", "http://127.0.0.1:1/metrics"),
        ("0.0.0.0:9464", "127.0.0.1:1"),
        ("my-control:9464", "my-control:9464"),
        ("control:9465", "127.0.0.1:9465"),
        ("9464", "1"),
        ("19464", "19464"),
        ("0.0.0.0", "127.0.0.1"),
    ],
)
def test_addresses_and_nothing_else_are_rewritten(text: str, here: str) -> None:
    differences = Differences(ports={9464: 1}, hosts=["control"], paths={}, programs={})
    assert differences.with_addresses(text) == here


def test_images_are_built_with_this_machines_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment wins over a file, as for pip; local directories are named, to be mounted."""
    index = tmp_path / "mirror" / "simple"
    index.mkdir(parents=True)
    own = tmp_path / "own.conf"
    own.write_text(f"[global]\ntimeout = 7\nextra-index-url = file://{index}\n")
    for name in ("PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(own))
    monkeypatch.setenv("PIP_TIMEOUT", "9")
    mounted = write_pip_conf(tmp_path / "pip.conf")
    written = configparser.RawConfigParser()
    written.read(tmp_path / "pip.conf")
    assert written["global"]["timeout"] == "9"
    assert index.parent in mounted
