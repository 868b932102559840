"""The closed loop: steps one after the other in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from control_service.replay.engine import Committed, Engine, Supply
from control_service.replay.load import Load
from control_service.replay.sources import AcceptanceSource, IntArray
from control_service.replay.step_times import Drift, Noise, NoiseTerms, StepTimes
from control_service.replay.streams import Seeds, child

FloatArray = npt.NDArray[np.float64]


class Launch(NamedTuple):
    """A step about to run.

    group_counts ([G] running requests of each group), entries and tokens_left ([B]) are for the
    oracles and the judgement: no policy may look.
    """

    step_index: int
    now_s: float
    phase: int
    batch_size: int
    context_tokens: int
    prefilled: bool
    group_counts: IntArray
    entries: IntArray
    tokens_left: IntArray


class Verdict(NamedTuple):
    """The length a step runs with, and why."""

    num_steps: int
    reason: str


class Controller(Protocol):
    """Decides every step, and hears how it went."""

    def decide(self, launch: Launch) -> Verdict:
        """The length of this step."""
        ...

    def ended(self, launch: Launch, num_steps: int, duration_s: float, committed: Committed) -> None:
        """The step is over."""
        ...


@dataclass
class RunLog:
    """Every step that ran, in order."""

    start_s: list[float] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    true_s: list[float] = field(default_factory=list)
    phase: list[int] = field(default_factory=list)
    batch_size: list[int] = field(default_factory=list)
    group_counts: list[IntArray] = field(default_factory=list)
    context_tokens: list[int] = field(default_factory=list)
    num_steps: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    end_s: float = 0.0

    def add(self, launch: Launch, verdict: Verdict, true_s: float, duration_s: float, tokens: int) -> None:
        """Keep one step."""
        self.start_s.append(launch.now_s)
        self.duration_s.append(duration_s)
        self.true_s.append(true_s)
        self.phase.append(launch.phase)
        self.batch_size.append(launch.batch_size)
        self.group_counts.append(launch.group_counts)
        self.context_tokens.append(launch.context_tokens)
        self.num_steps.append(verdict.num_steps)
        self.tokens.append(tokens)
        self.reason.append(verdict.reason)


@dataclass(frozen=True)
class World:
    """The truth that a run happens in."""

    source: AcceptanceSource
    times: StepTimes
    noise: NoiseTerms
    load: Load


def run(world: World, controller: Controller, seeds: Seeds) -> RunLog:
    """Run the load to its end; the step that crosses the end is finished and counted."""
    source, load = world.source, world.load
    engine = Engine(source, seeds.acceptance)
    log = RunLog()
    drift = Drift(world.noise.drift, seeds.drift)
    now_s, step_index, phase = 0.0, 0, -1
    while now_s < load.end_s:
        if (newest := load.index_at(now_s, max(phase, 0))) != phase:
            phase = newest
            current = load.phases[phase]
            supply = Supply(source.groups[current.group], child(seeds.order, phase))
            noise = Noise(world.noise, child(seeds.noise, phase))
        prompt_tokens = engine.admit(current.concurrency, supply, drain=load.drain)
        if prompt_tokens:
            now_s += world.times.prefill_seconds(prompt_tokens)
        step_index += 1
        launch = Launch(
            step_index=step_index,
            now_s=now_s,
            phase=phase,
            batch_size=engine.batch_size,
            context_tokens=engine.context_tokens,
            prefilled=prompt_tokens > 0,
            group_counts=engine.group_counts,
            entries=engine.entries(now_s),
            tokens_left=engine.tokens_left,
        )
        verdict = controller.decide(launch)
        true_s = world.times.seconds(
            float(launch.batch_size), verdict.num_steps, float(launch.context_tokens)
        )
        duration_s = true_s * noise.factor() * drift.factor(now_s)
        committed = engine.commit(verdict.num_steps, launch.entries)
        now_s += duration_s
        controller.ended(launch, verdict.num_steps, duration_s, committed)
        log.add(launch, verdict, true_s, duration_s, int(committed.tokens.sum()))
    log.end_s = now_s
    return log
