"""Options of `turbospec up`: what is usable is understood, and what is not is named."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from control_service.cli import options
from control_service.cli.errors import CliError, ExitCode

RUN_DIR = Path("/run/somewhere")


@pytest.mark.parametrize(
    ("text", "expected"), [("0,1", (0, 1)), ("0,1,2,3,5", (0, 1, 2, 3, 5)), ("0,64", (0, 64))]
)
def test_candidates_are_read(text: str, expected: tuple[int, ...]) -> None:
    assert options.parse_candidates(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "1,2", "0,2,1", "0,1,1", "0,-1", "0, 1", "0,65", "a", "0,1.5", "0,"]
)
def test_unusable_candidates_are_refused_by_name_and_value(text: str) -> None:
    with pytest.raises(CliError, match=r"--candidates is .*; allowed: .*ascending, 0 first") as refusal:
        options.parse_candidates(text)
    assert repr(text) in str(refusal.value)
    assert refusal.value.exit_code == ExitCode.USAGE


def test_too_many_candidates_are_refused() -> None:
    most = ",".join(map(str, range(options.MAX_CANDIDATES)))
    assert len(options.parse_candidates(most)) == options.MAX_CANDIDATES
    with pytest.raises(CliError):
        options.parse_candidates(f"{most},{options.MAX_CANDIDATES}")


def test_a_choice_is_found_whatever_its_case() -> None:
    assert options.parse_choice("--algorithm", "eagle3", options.ALGORITHMS) == "EAGLE3"
    with pytest.raises(
        CliError, match="--algorithm is 'MEDUSA'; allowed: EAGLE, EAGLE3, STANDALONE, NGRAM, NONE"
    ):
        options.parse_choice("--algorithm", "MEDUSA", options.ALGORITHMS)


def test_the_service_listens_in_the_run_directory_unless_told() -> None:
    assert options.parse_control_address(None, RUN_DIR) == "unix:/run/somewhere/control.sock"
    assert options.parse_control_address("10.0.0.1:7031", RUN_DIR) == "10.0.0.1:7031"


@pytest.mark.parametrize(
    "text", ["unix:relative.sock", "host", "host:", ":7031", "host:0", "host:65536", "host:x"]
)
def test_unusable_control_addresses_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="--control-address is "):
        options.parse_control_address(text, RUN_DIR)


def test_a_socket_path_that_the_kernel_would_refuse_is_refused_first() -> None:
    fits = "/" + "d" * (options.MAX_SOCKET_PATH_BYTES - 1)
    assert options.parse_control_address(f"unix:{fits}", RUN_DIR) == f"unix:{fits}"
    with pytest.raises(CliError, match="at most 107 bytes"):
        options.parse_control_address(f"unix:{fits}d", RUN_DIR)


def test_sglang_flags_come_after_two_dashes_only() -> None:
    assert options.parse_sglang_flags(["--dtype", "float32"]) == ("--dtype", "float32")
    with pytest.raises(CliError, match="unexpected argument 'stray'"):
        options.parse_sglang_flags(["stray"])


def test_a_port_in_use_is_refused_and_zero_finds_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CliError, match=rf"--port is '{port}'; allowed: a free port"):
            options.usable_port("--port", "127.0.0.1", port)
        assert options.usable_port("--port", "127.0.0.1", 0) not in (0, port)


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 'GPU 0: something'", "cuda"), ("echo 'No devices were found'; exit 6", "cpu"), ("exit 9", "cpu")],
)
def test_device_auto_is_cuda_only_if_the_driver_lists_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert options.resolve_device("auto") == expected


def test_device_auto_is_cpu_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert options.resolve_device("auto") == "cpu"
    assert options.resolve_device("cuda") == "cuda"
