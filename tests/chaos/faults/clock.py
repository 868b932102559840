"""The wall clock jumps; only the monotonic one may matter."""

from __future__ import annotations

from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.stage import FakeClockStage

DAY_S: Final = 86_400


def _jump(stage: FakeClockStage) -> None:
    """Forward by a day, and back by two."""
    stage.clock.set(DAY_S)
    stage.engine.run(100)
    stage.clock.set(-DAY_S)


FAULTS: Final = (
    Fault(
        "wall clock jumps",
        "the wall clock of engine, agent and service jumps a day ahead, two days back, and home",
        FakeClockStage,
        inject=_jump,
        heal=lambda stage: stage.clock.set(0),
        must_lose_control=False,
    ),
)
