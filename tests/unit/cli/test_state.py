"""The run directory: a run is found while it lives, and two runs never share one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from control_service.cli.errors import CliError, ExitCode
from control_service.cli.state import RunState, claimed, find_control_address, read_state, remove_state

STATE = RunState(
    pid=os.getpid(),
    endpoint="http://127.0.0.1:30000",
    model="m",
    algorithm="NGRAM",
    candidates=[0, 1],
    control_address="unix:/run/control.sock",
    metrics_url="http://127.0.0.1:9464/metrics",
    logs="/run/logs",
)


def test_a_written_state_is_read_back_until_it_is_removed(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    STATE.write(tmp_path)
    assert read_state(tmp_path) == STATE
    assert find_control_address(None, tmp_path) == "unix:/run/control.sock"
    remove_state(tmp_path)
    assert read_state(tmp_path) is None


def test_an_address_on_the_command_line_wins(tmp_path: Path) -> None:
    STATE.write(tmp_path)
    assert find_control_address("10.0.0.1:1", tmp_path) == "10.0.0.1:1"


def test_the_state_of_a_dead_run_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    replace(STATE, pid=ended.pid).write(tmp_path)
    with pytest.raises(CliError, match="no run of `turbospec up`") as refusal:
        find_control_address(None, tmp_path)
    assert refusal.value.exit_code == ExitCode.UNREACHABLE


def test_without_a_run_a_service_that_was_started_alone_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(CliError):
        find_control_address(None, tmp_path)
    path = tmp_path / "turbospec" / "control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert find_control_address(None, tmp_path) == f"unix:{path}"
        STATE.write(tmp_path)
        assert find_control_address(None, tmp_path) == STATE.control_address


def test_an_uncontrolled_run_has_no_service_to_talk_to(tmp_path: Path) -> None:
    replace(STATE, control_address="").write(tmp_path)
    with pytest.raises(CliError, match="not under control"):
        find_control_address(None, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}'])
def test_a_file_that_is_no_state_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(CliError, match=r"state\.json"):
        read_state(tmp_path)


def test_a_run_directory_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    run_dir = tmp_path / "new"
    with claimed(run_dir), pytest.raises(CliError, match="where a run is going on"), claimed(run_dir):
        pass
    with claimed(run_dir):
        assert run_dir.is_dir()
