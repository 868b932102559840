"""Does one fault to a stage and watches what the stepping engine makes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tests.chaos.engine import EngineProcess
from tests.chaos.fault import Fault
from tests.chaos.outcome import Cost, Ledger, Outcome, differences, origins
from tests.chaos.stage import HostileStage, Stage
from tests.chaos.steps import Step, read_spans, until_control, until_loss
from tests.support.hostile_service import HONEST_LENGTH
from tests.support.stepped_engine import CANDIDATES
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names

S = TypeVar("S", bound=Stage)

# What is asked of telemetry after a window: the records of its last steps, and the word of what was dropped.
TELL_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Plan:
    """How long to look."""

    # Before the fault and again after it: what the steps of the fault are compared with.
    quiet_steps: int = 400
    # A fault lasts so many times its own number of steps.
    stretch: float = 1.0
    loss_timeout_s: float = 20.0
    # On a crowded machine answers are late, and the breaker waits for a run of them in time.
    control_timeout_s: float = 120.0


@dataclass
class _Watch:
    """The steps of one life of the engine, from a moment on."""

    engine: EngineProcess
    first: int
    last: int = 0

    def steps(self) -> list[Step]:
        return self.engine.steps()[self.first : self.last or None]


def run(fault: Fault[S], stage: S, plan: Plan) -> Outcome:
    """One outcome. The stage is under steady control before, and again after."""
    watches = [_Watch(stage.engine, len(stage.engine.steps()))]
    stage.engine.run(plan.quiet_steps)
    inject_ns = time.monotonic_ns()
    fault.inject(stage)
    stage.engine.run(round(fault.steps * plan.stretch))
    if fault.must_lose_control:
        eventually(lambda: until_loss(watches[0].steps(), inject_ns) is not None, plan.loss_timeout_s)
    fault.heal(stage)
    heal_ns = time.monotonic_ns()
    if stage.engine is not watches[0].engine:
        watches.append(_Watch(stage.engine, 0))
    rescue = _wait_control(fault, stage, heal_ns, plan)
    back_ns = time.monotonic_ns()
    stage.engine.run(plan.quiet_steps)
    for watch in watches:
        watch.last = len(watch.engine.steps())
    lost = 0 if stage.engine.alive else 1
    return _outcome(fault, stage, watches, (inject_ns, heal_ns, back_ns), rescue, lost=lost)


def _wait_control(fault: Fault[S], stage: S, heal_ns: int, plan: Plan) -> str:
    """Wait for steady control; says what had to be done for it."""

    def back() -> bool:
        return until_control(stage.engine.steps(), heal_ns) is not None

    if eventually(back, plan.control_timeout_s) or fault.rescue is None:
        return ""
    done = fault.rescue(stage)
    eventually(back, plan.control_timeout_s)
    return done


def _outcome(
    fault: Fault[S],
    stage: S,
    watches: Sequence[_Watch],
    times_ns: tuple[int, int, int],
    rescue: str,
    *,
    lost: int,
) -> Outcome:
    inject_ns, heal_ns, back_ns = times_ns
    before, after = watches[0].steps(), watches[-1].steps()
    everything = [step for watch in watches for step in watch.steps()]
    count = until_control(after, heal_ns)
    control_ms = None
    if count is not None:
        first = [step for step in after if step.start_ns >= heal_ns][count - 1]
        control_ms = (first.start_ns - heal_ns) / 1e6
    # A lie must not be obeyed: honest answers name one length only.
    lengths = (0, HONEST_LENGTH) if isinstance(stage, HostileStage) else CANDIDATES
    wrong = []
    received = dropped = 0
    for watch in watches:
        told, said = _told(stage, watch)
        received, dropped = received + len(told), dropped + said
        wrong += differences(watch.steps(), told, frozenset(lengths), what=f"epoch {watch.engine.epoch}")
    return Outcome(
        fault=fault.name,
        engine="stepped",
        quiet=Cost.of(s for s in everything if s.start_ns < inject_ns or s.start_ns >= back_ns),
        during=Cost.of(s for s in everything if inject_ns <= s.start_ns < heal_ns),
        until_loss_steps=until_loss([s for s in before if s.start_ns < heal_ns], inject_ns),
        until_control_steps=count,
        until_control_ms=control_ms,
        rescue=rescue,
        ledger=Ledger(len(everything), origins(everything), received, dropped),
        requests_lost=lost,
        differences=wrong,
    )


def _told(stage: Stage, watch: _Watch) -> tuple[list[Step], int]:
    """Records of the window that arrived, and how many more the engine says were dropped in it."""
    steps = watch.steps()
    first, last = steps[0].number, steps[-1].number

    def spans() -> list[dict[str, Any]]:
        return stage.collector.spans(watch.engine.epoch)

    def complete() -> bool:
        indices = {span[names.STEP_INDEX] for span in spans()}
        return last in indices or not watch.engine.alive

    eventually(complete, TELL_TIMEOUT_S)
    dropped, known = 0, 0
    for span in spans():
        said = span.get(names.DROPPED_RECORDS, 0)
        # A new agent counts from nothing: only growth is news.
        if span[names.STEP_INDEX] >= first:
            dropped += max(0, said - known)
        known = said
    return [step for step in read_spans(spans()) if first <= step.number <= last], dropped
