"""A closed loop in virtual time: the real session against an engine whose truth is known.

The engine asks for step n as it launches step n-1, runs the tier that covers its batch,
and reports steps in batches that arrive late. Steps scatter lognormally, some are outliers,
and a step whose length has just changed costs extra. Results are judged by the truth, not
by the noise: expected tokens over expected seconds.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from control_service.core.goodput import GoodputPolicy
from control_service.core.models import EngineModels
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import EngineProfile, Mode, StepObservation, StepQuery

Acceptance = Callable[[float], tuple[float, ...]]
Cost = Callable[[int, int, float], float]
Batch = Callable[[float], int]


@dataclass(frozen=True)
class World:
    """The truth.

    acceptance: conditional rates by position at a time; cost: seconds of (batch, length, context
    tokens); batch: running requests at a time; slowdown: a factor on all steps at a time.
    """

    name: str
    acceptance: Acceptance
    cost: Cost
    batch: Batch
    candidates: tuple[int, ...] = (0, 1, 2, 3, 5)
    duration_s: float = 80.0
    warm_up_s: float = 15.0
    noise: float = 0.07
    outliers: float = 0.015
    change_cost: float = 0.05
    tokens_per_request: float = 400.0
    max_running_requests: int = 64
    slowdown: Callable[[float], float] = lambda _: 1.0

    def tokens(self, now_s: float, batch: int, length: int) -> float:
        """Expected tokens of one step."""
        survival, total = 1.0, 1.0
        for rate in self.acceptance(now_s)[:length]:
            survival *= rate
            total += survival
        return batch * total

    def rate(self, now_s: float, length: int) -> float:
        """Expected tokens a second of one length at a time."""
        batch = self.batch(now_s)
        seconds = self.cost(batch, length, self.tokens_per_request * batch) * self.slowdown(now_s)
        return self.tokens(now_s, batch, length) / seconds

    def fixed(self, length: int) -> float:
        """Tokens a second of a length fixed for the whole judged time."""
        steps = 2_000
        span = self.duration_s - self.warm_up_s
        times = (self.warm_up_s + span * (place + 0.5) / steps for place in range(steps))
        return sum(self.rate(now_s, length) for now_s in times) / steps


@dataclass
class Result:
    """What came out, after the warm-up unless named otherwise."""

    world: World
    steps: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    cold_tokens: float = 0.0
    cold_seconds: float = 0.0
    switches: int = 0
    probe_steps: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def best_fixed(self) -> int:
        return max(self.world.candidates, key=self.world.fixed)

    @property
    def ratio(self) -> float:
        """Goodput over that of the best fixed length."""
        return self.tokens / self.seconds / self.world.fixed(self.best_fixed)

    @property
    def switches_per_1000(self) -> float:
        return 1_000.0 * self.switches / self.steps

    def line(self) -> str:
        share = {length: round(count / self.steps, 3) for length, count in sorted(self.lengths.items())}
        return (
            f"{self.world.name:28s} ratio {self.ratio:.4f} best {self.best_fixed} steps {self.steps:5d}"
            f" switches/1000 {self.switches_per_1000:4.1f} probes {self.probe_steps / self.steps:.3f} {share}"
        )


def make_session(world: World, policy: GoodputPolicy | None = None) -> EngineSession:
    """A session as the registry makes it."""
    profile = EngineProfile(
        engine_id="sim",
        epoch=1,
        sglang_version="",
        plugin_version="",
        target_model="t",
        draft_model="d",
        dtype="",
        accelerator="",
        tensor_parallel_size=1,
        data_parallel_size=1,
        pipeline_parallel_size=1,
        algorithm="EAGLE",
        topk=1,
        candidate_num_steps=world.candidates,
        graph_batch_sizes=(),
        max_running_requests=world.max_running_requests,
        launch_num_steps=world.candidates[-1],
    )
    return EngineSession(
        profile,
        mode=Mode.ENFORCE,
        policy=policy or GoodputPolicy(profile),
        models=EngineModels(profile),
        terms=LeaseTerms(),
    )


def simulate(world: World, seed: int = 0) -> Result:
    """Run the world to its end."""
    return Simulation(world, seed).run()


class Simulation:
    """The engine's side of the loop."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.session = make_session(world)
        self.result = Result(world)
        self._random = random.Random(seed)
        self._now_s = 0.0
        self._unsent: list[StepObservation] = []
        self._in_flight: deque[tuple[float, list[StepObservation]]] = deque()
        self._flush_at_s = 0.1

    def run(self) -> Result:
        """Every step until the end of time."""
        world, previous, index = self.world, -1, 0
        length_before_s = 0.0
        while self._now_s < world.duration_s:
            index += 1
            # Asked as the step before was launched, with what was known then.
            self._deliver(length_before_s)
            asked_batch = world.batch(length_before_s)
            query = StepQuery(index, asked_batch, int(world.tokens_per_request * asked_batch), 0)
            lease = self.session.decide(query)
            reason = self.session.decisions[-1].choice.reason
            batch = world.batch(self._now_s)
            length = next((tier.num_steps for tier in lease.tiers if tier.max_batch_size >= batch), 0)
            length_before_s = self._now_s
            self._step(index, batch, length, previous, reason)
            previous = length
        self.result.switches = self.session.counters.switches_total - self.result.switches
        return self.result

    def _step(self, index: int, batch: int, length: int, previous: int, reason: str) -> None:
        world, now_s = self.world, self._now_s
        rates = world.acceptance(now_s)
        accepted = tuple(self._accepted(rates, length) for _ in range(batch))
        context = world.tokens_per_request * batch
        expected_s = world.cost(batch, length, context) * world.slowdown(now_s)
        if previous not in (-1, length):
            expected_s *= 1.0 + world.change_cost
        # Mean 1, so that scatter does not shift the truth.
        scatter = math.exp(self._random.gauss(-(world.noise**2) / 2.0, world.noise))
        duration_s = expected_s * scatter * (3.0 if self._random.random() < world.outliers else 1.0)
        self._unsent.append(
            StepObservation(
                step_index=index,
                batch_size=batch,
                context_tokens=int(context),
                waiting_requests=0,
                num_steps=length,
                previous_num_steps=previous,
                start_s=now_s,
                duration_s=duration_s,
                accepted_drafts=accepted,
                first_step=(False,) * batch,
                source="lease",
                fallback_reason="",
                decision_id=index,
                decision_wait_us=0.0,
                control_us=0.0,
                dropped_records=0,
            )
        )
        self._score(now_s, batch, length, expected_s, reason)
        self._now_s += duration_s
        if self._now_s >= self._flush_at_s:
            self._in_flight.append((self._now_s + self._random.uniform(0.0, 0.1), self._unsent))
            self._unsent, self._flush_at_s = [], self._now_s + 0.1

    def _score(self, now_s: float, batch: int, length: int, expected_s: float, reason: str) -> None:
        result, tokens = self.result, self.world.tokens(now_s, batch, length)
        if now_s < self.world.warm_up_s:
            result.cold_tokens += tokens
            result.cold_seconds += expected_s
            result.switches = self.session.counters.switches_total
            return
        result.steps += 1
        result.tokens += tokens
        result.seconds += expected_s
        result.lengths[length] += 1
        result.reasons[reason] += 1
        result.probe_steps += reason == "probe"

    def _deliver(self, until_s: float) -> None:
        while self._in_flight and self._in_flight[0][0] <= until_s:
            for step in self._in_flight.popleft()[1]:
                assert self.session.observe(step) is None
            if self.session.needs_refit:
                self.session.refit()

    def _accepted(self, rates: tuple[float, ...], length: int) -> int:
        count = 0
        while count < length and self._random.random() < rates[count]:
            count += 1
        return count
