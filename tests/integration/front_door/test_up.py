"""`turbospec up` for real: service and SGLang with the knob model, from start to an empty room."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.wait import eventually

START_TIMEOUT_S = 400
STOP_TIMEOUT_S = 60
TURBOSPEC = [sys.executable, "-m", "control_service.cli.main"]


@dataclass
class Run:
    """One `turbospec up --json`, healthy."""

    process: subprocess.Popen[str]
    run_dir: Path
    # What it printed when it was ready.
    state: dict[str, Any]
    # Everything it had started by then.
    tree: list[psutil.Process]

    @property
    def said(self) -> str:
        return (self.run_dir.parent / "up.err").read_text()

    def child(self, module: str) -> psutil.Process:
        """The process that runs `python -m module`."""
        return next(
            child for child in psutil.Process(self.process.pid).children() if module in child.cmdline()
        )

    def turbospec(self, *words: str) -> Any:
        command = [*TURBOSPEC, *words, "--run-dir", str(self.run_dir), "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def chat(self, max_tokens: int) -> dict[str, Any]:
        body = {
            "model": self.state["model"],
            "messages": [{"role": "user", "content": "hello there"}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        response = httpx.post(f"{self.state['endpoint']}/v1/chat/completions", json=body, timeout=120)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def left(self) -> list[psutil.Process]:
        """What still runs of all that was started."""
        return [process for process in self.tree if _alive(process)]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts a run and waits until it is ready; what is left of it is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> Run:
        run_dir = tmp_path / "run"
        command = [*TURBOSPEC, "up", "--json", "--port", "0", "--metrics-port", "0", "--device", "cpu"]
        inherited = {name: value for name, value in os.environ.items() if name != "TURBOSPEC_UP_RUN_DIR"}
        with (tmp_path / "up.err").open("w") as errors:
            process = subprocess.Popen(
                [*command, "--run-dir", str(run_dir), *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=inherited,
                start_new_session=True,
            )
        started.append(process)
        # A run that hangs must not hang the test; its end closes the pipe.
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        watchdog.cancel()
        assert line, (tmp_path / "up.err").read_text()
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        return Run(process, run_dir, json.loads(line), tree)

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.mark.engine
def test_a_run_serves_under_control_survives_its_service_and_leaves_nothing_behind(
    up: Callable[..., Run],
) -> None:
    """One engine for the whole story: an engine takes half a minute to start."""
    run = up("--model", "knob", "--", "--max-running-requests", "4")
    assert run.state["algorithm"] == "STANDALONE"
    assert run.chat(max_tokens=48)["usage"]["completion_tokens"] == 48

    _under_control(run)
    _metrics_are_served(run)
    _outlives_the_service(run)
    _a_second_run_is_refused(run)

    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(STOP_TIMEOUT_S) == 0
    assert run.left() == []
    assert not (run.run_dir / "state.json").exists()
    assert "stopped" in run.said


def _under_control(run: Run) -> None:
    def engine() -> dict[str, Any]:
        status: dict[str, Any] = run.turbospec("status")["engines"][0]
        return status

    assert engine()["connected"]
    assert engine()["profile"]["algorithm"] == "STANDALONE"
    assert engine()["profile"]["candidate_num_steps"] == [0, 1, 2, 3, 5]
    # The user's flags reached SGLang, and won over what comes with the model.
    assert engine()["profile"]["max_running_requests"] == 4
    assert eventually(lambda: engine()["steps_by_source"].get("lease", 0) > 0)
    assert engine()["mode"] == "enforce"
    assert run.turbospec("explain")["engine_id"] == engine()["profile"]["engine_id"]


def _metrics_are_served(run: Run) -> None:
    with urllib.request.urlopen(run.state["metrics_url"]) as answer:
        assert b"# TYPE turbospec_" in answer.read()


def _outlives_the_service(run: Run) -> None:
    """The service is killed: the same SGLang goes on serving, and the service comes back."""
    sglang, service = run.child("sglang_patch.launch"), run.child("control_service")
    service.kill()
    assert run.chat(max_tokens=16)["usage"]["completion_tokens"] == 16
    assert eventually(lambda: "control service is back" in run.said, timeout_s=60)
    assert "control service ended (killed by SIGKILL)" in run.said
    assert run.child("sglang_patch.launch") == sglang
    assert run.child("control_service") != service
    run.tree.extend(psutil.Process(run.process.pid).children(recursive=True))
    assert eventually(
        lambda: any(engine["connected"] for engine in run.turbospec("status")["engines"]), timeout_s=60
    )


def _a_second_run_is_refused(run: Run) -> None:
    words = ["up", "--port", "0", "--metrics-port", "0", "--model", "knob", "--run-dir", str(run.run_dir)]
    second = subprocess.run([*TURBOSPEC, *words], check=False, capture_output=True, text=True)
    assert second.returncode == 2
    assert "where a run is going on" in second.stderr


@pytest.mark.engine
def test_when_sglang_dies_the_user_is_told_and_the_service_is_stopped(up: Callable[..., Run]) -> None:
    run = up("--model", "knob")
    run.child("sglang_patch.launch").kill()
    assert run.process.wait(STOP_TIMEOUT_S) == 5
    assert "SGLang ended (killed by SIGKILL); the end of " in run.said
    assert run.left() == []


def test_a_flag_that_sglang_refuses_is_shown(tmp_path: Path) -> None:
    words = "up --model knob --port 0 --metrics-port 0 --device cpu -- --no-such-flag"
    run_dir = str(tmp_path / "run")
    failed = subprocess.run(
        [*TURBOSPEC, *shlex.split(words)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TURBOSPEC_UP_RUN_DIR": run_dir},
        timeout=START_TIMEOUT_S,
    )
    assert failed.returncode == 5
    assert "SGLang ended while starting (exit code 2)" in failed.stderr
    assert "unrecognized arguments: --no-such-flag" in failed.stderr
    assert f"{run_dir}/logs/sglang.log" in failed.stderr
