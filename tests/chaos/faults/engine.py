"""The engine's own process and its agent: killed, frozen, starved of the interpreter, replaced."""

from __future__ import annotations

import signal
import time
from typing import Final

from tests.chaos.engine import EngineStalled
from tests.chaos.fault import Fault
from tests.chaos.stage import START_TIMEOUT_S, Stage


def _kill_agent(stage: Stage) -> None:
    stage.engine.agent().kill()


def _stop_agent(stage: Stage) -> None:
    stage.engine.agent().suspend()


def _continue_agent(stage: Stage) -> None:
    stage.engine.agent().resume()


def _kill_engine(stage: Stage) -> None:
    stage.engine.kill()
    stage.engine = stage.start_engine()


def _freeze_and_replace(stage: Stage) -> None:
    """The old life of the engine comes back when the new one is under control."""
    stage.engine.signal(signal.SIGSTOP)
    successor = stage.start_engine()
    if not successor.wait_controlled(START_TIMEOUT_S):
        raise EngineStalled("the engine's next life is not controlled while its last one is frozen")
    stage.engine.signal(signal.SIGCONT)
    stage.successor = successor


def _end_the_old(stage: Stage) -> None:
    assert stage.successor is not None
    stage.engine.kill()
    stage.engine, stage.successor = stage.successor, None


def _touch_kill_file(stage: Stage) -> None:
    stage.kill_file.touch()
    time.sleep(0.5)


def _remove_kill_file(stage: Stage) -> None:
    stage.kill_file.unlink()


FAULTS: Final = (
    Fault(
        "agent SIGKILL",
        "SIGKILL to the engine's agent process",
        Stage,
        inject=_kill_agent,
        kills_witness=True,
    ),
    Fault(
        "agent SIGSTOP",
        "SIGSTOP to the engine's agent process; SIGCONT later",
        Stage,
        inject=_stop_agent,
        heal=_continue_agent,
    ),
    Fault(
        "thread hogs the GIL",
        "a pure Python thread computes without end in the engine's process",
        Stage,
        inject=lambda stage: stage.engine.hog(True),
        heal=lambda stage: stage.engine.hog(False),
        must_lose_control=False,
    ),
    Fault(
        "kill file",
        "TURBOSPEC_KILL_FILE appears; removed later",
        Stage,
        inject=_touch_kill_file,
        heal=_remove_kill_file,
    ),
    Fault(
        "engine killed in a step",
        "SIGKILL to the engine's process in a step; its next life, with a greater epoch, starts",
        Stage,
        inject=lambda stage: stage.engine.run(0),
        heal=_kill_engine,
        steps=0,
        must_lose_control=False,
        kills_witness=True,
    ),
    Fault(
        "engine frozen and replaced",
        "SIGSTOP to engine and agent; a new life takes the name over; SIGCONT to the old one, killed later",
        Stage,
        inject=_freeze_and_replace,
        heal=_end_the_old,
        kills_witness=True,
        short_form=False,
    ),
)
