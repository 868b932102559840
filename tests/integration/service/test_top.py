"""`turbospec top` against a real service that is restarted under it, on a real terminal and off one."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from control_service.cli.errors import ExitCode
from control_service.server.app import ControlService
from control_service.settings import ServiceSettings
from tests.integration.service.commands import TIMEOUT_S, clean_environment, ended, run, start
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)

PHYSICS = Physics(0.8, cheap_drafts)
STEPS = 40
LEAVE_SCREEN = b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"


@pytest.fixture
async def engine(unix_target: str) -> AsyncIterator[SyntheticEngine]:
    async with connected_engine(unix_target, make_profile(), PHYSICS) as connected:
        await connected.run(STEPS, batch_size=2)
        await connected.flush()
        yield connected


async def test_once_is_a_line_for_each_engine(unix_target: str, engine: SyntheticEngine) -> None:
    async with connected_engine(unix_target, make_profile("engine-b"), PHYSICS) as other:
        await other.ask(1)
        done = await run("top", "--once", "--control-address", unix_target)
        one = await run("top", "engine-b", "--once", "--control-address", unix_target)
    assert done.code == ExitCode.DONE, done.err
    first, second = done.out.splitlines()
    assert "engine-a  connected  enforce  goodput  length" in first
    assert f"of {STEPS} steps" in first
    assert "engine-b  connected" in second
    assert [line.split()[1] for line in one.out.splitlines()] == ["engine-b"]


async def test_once_as_json_is_one_object(unix_target: str, engine: SyntheticEngine) -> None:
    done = await run("top", "--once", "--json", "--control-address", unix_target)
    found = json.loads(done.out)
    assert found["error"] is None
    assert found["engines"][0]["steps_total"] == STEPS


async def test_once_without_a_service_fails_as_the_other_commands_do() -> None:
    done = await run("top", "--once", "--control-address", "unix:/nowhere/control.sock")
    assert (done.code, done.out) == (ExitCode.UNREACHABLE, "")


async def test_an_engine_that_nobody_knows_is_a_wrong_argument(
    unix_target: str, engine: SyntheticEngine
) -> None:
    done = await run("top", "nobody", "--once", "--control-address", unix_target)
    assert done.code == ExitCode.USAGE
    assert "ENGINE is 'nobody'" in done.err


async def test_it_outlives_a_restart_of_the_service(settings: ServiceSettings) -> None:
    service = ControlService(settings)
    await service.start()
    target = str(service.addresses[0])
    process = await start("top", "--json", "--interval", "0.1", "--control-address", target)
    try:
        assert (await _look(process))["error"] is None
        await service.stop()
        await _until(process, there=False)
        service = ControlService(settings)
        await service.start()
        await _until(process, there=True)
        process.send_signal(signal.SIGINT)
        # What was printed before the signal is still to be read.
        assert (await ended(process)).code == ExitCode.DONE
    finally:
        await service.stop()
        if process.returncode is None:
            process.kill()


async def _look(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)
    look: dict[str, Any] = json.loads(line)
    return look


async def _until(process: asyncio.subprocess.Process, *, there: bool) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while ((await _look(process))["error"] is None) is not there:
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_told_to_stop_it_leaves_the_terminal_as_it_was(
    number: signal.Signals, unix_target: str, engine: SyntheticEngine
) -> None:
    code, shown = await asyncio.to_thread(_on_a_terminal, number, unix_target)
    assert code == ExitCode.DONE
    assert b"engine-a" in shown
    end = shown[shown.index(b"engine-a") :]
    assert LEAVE_SCREEN in end
    assert SHOW_CURSOR in end
    assert b"Traceback" not in shown


def _on_a_terminal(number: signal.Signals, target: str) -> tuple[int, bytes]:
    """Run it on a pseudo-terminal until it has drawn the engine, then signal it; its end and its output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "control_service.cli.main", "top", "--control-address", target],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=clean_environment(TERM="xterm", COLUMNS="100", LINES="40"),
    )
    os.close(theirs)
    shown = b""
    signalled = False
    deadline_s = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline_s:
            try:
                shown += os.read(ours, 65_536)
            except OSError:
                # The other end is closed: it has ended.
                break
            if not signalled and b"engine-a" in shown:
                signalled = True
                process.send_signal(number)
        return process.wait(TIMEOUT_S), shown
    finally:
        os.close(ours)
        process.kill()
        process.wait()
