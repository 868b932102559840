"""The closed loop: virtual time, phases, and a session that sees only what it would see online."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from control_service.core.policies.static import StaticPolicy
from control_service.core.policy import ModelView
from control_service.core.types import StepObservation
from control_service.replay.engine import Committed
from control_service.replay.loop import Launch, Verdict, World, run
from control_service.replay.oracles import Clairvoyant, FixedLength, PerfectModels
from control_service.replay.plan import profile_of
from control_service.replay.session_controller import EXPORT_INTERVAL_S, SessionController, observation
from control_service.replay.sources import TraceSource
from control_service.replay.step_times import (
    DraftTerms,
    Drift,
    DriftTerms,
    NoiseTerms,
    PrefillTerms,
    VerifyTerms,
)
from control_service.replay.streams import seeds_of
from tests.unit.replay.builders import CANDIDATES, cell, step_time_file, trace_source, world

LONG = (3, 2, 1, 4, 3, 2, 1, 1, 2, 1) * 20


class Witness(StaticPolicy):
    """A static policy that keeps what it is told, and when."""

    def __init__(self, num_steps: int) -> None:
        super().__init__(num_steps, 256)
        self.steps: list[StepObservation] = []

    def observe(self, step: StepObservation, view: ModelView) -> None:
        self.steps.append(step)


class Recorder:
    """Runs the lengths it is given and keeps every step as an engine would report it."""

    def __init__(self, lengths: Iterator[int]) -> None:
        self._lengths = lengths
        self._previous = -1
        self.steps: list[StepObservation] = []

    def decide(self, launch: Launch) -> Verdict:
        return Verdict(next(self._lengths), "given")

    def ended(self, launch: Launch, num_steps: int, duration_s: float, committed: Committed) -> None:
        self.steps.append(observation(launch, num_steps, self._previous, duration_s, committed))
        self._previous = num_steps


def _controller(where: World, num_steps: int) -> tuple[SessionController, Witness]:
    policy = Witness(num_steps)
    seeds = seeds_of(1)
    return SessionController(profile_of(cell(where), CANDIDATES), policy, seeds.telemetry), policy


def test_tokens_and_time_by_hand() -> None:
    """One request of four tokens, again and again: every number can be checked."""
    file = step_time_file(verify=VerifyTerms(context_s_per_token=0.0, token_s=1e-3, fixed_s=10e-3))
    where = world(trace_source((3, 2, 1, 1)), (1, 0.05), file=file)
    log = run(where, FixedLength(1), seeds_of(1))
    # Each step 10 + 2 * 1 + 2 ms; 2 tokens, then 1, then 1 (the entry at position 2 is 1).
    assert log.duration_s == pytest.approx([14e-3] * 4)
    assert log.tokens == [2, 1, 1, 2]
    assert log.context_tokens == [100, 102, 103, 100]
    assert log.start_s == pytest.approx([0.0, 14e-3, 28e-3, 42e-3])
    assert log.end_s == pytest.approx(56e-3)


def test_prefill_passes_time_between_steps_and_is_no_step() -> None:
    """As the recorder has it: a step ends as the prefill is launched."""
    file = step_time_file(prefill=PrefillTerms(fixed_s=1.0))
    where = world(trace_source((1, 1)), (1, 2.5), file=file)
    log = run(where, FixedLength(0), seeds_of(1))
    assert max(log.duration_s) < 0.1
    assert log.start_s[0] == pytest.approx(1.0)
    # Two steps a request, then the next prefill.
    assert log.start_s[2] - log.start_s[1] == pytest.approx(1.0 + log.duration_s[1])


def test_phases_set_concurrency_and_begin_alike_for_every_policy() -> None:
    """A phase's requests and noise do not depend on how many steps came before."""
    source = trace_source(*(LONG[place:] for place in range(20)))
    where = world(source, (1, 0.5), (4, 0.5), (2, 0.5), noise=NoiseTerms(lognormal_sigma=0.1))
    logs = [run(where, FixedLength(length), seeds_of(3)) for length in (0, 3)]
    for log in logs:
        by_phase = [
            {size for size, at in zip(log.batch_size, log.phase, strict=True) if at == phase}
            for phase in range(3)
        ]
        assert by_phase == [{1}, {4}, {2}]
    firsts = [log.phase.index(1) for log in logs]
    assert firsts[0] != firsts[1]
    factors = [log.duration_s[first] / log.true_s[first] for log, first in zip(logs, firsts, strict=True)]
    assert factors[0] == pytest.approx(factors[1])


@pytest.mark.parametrize("num_steps", CANDIDATES)
def test_a_static_policy_is_a_fixed_length(num_steps: int) -> None:
    """Fixed lengths are replayed without a session; that must make no difference."""
    where = world(trace_source(LONG, LONG[3:]), (3, 2.0), noise=NoiseTerms(lognormal_sigma=0.05))
    controller, _ = _controller(where, num_steps)
    through_session = run(where, controller, seeds_of(1))
    fixed = run(where, FixedLength(num_steps), seeds_of(1))
    assert through_session.tokens == fixed.tokens
    assert through_session.duration_s == fixed.duration_s
    assert through_session.num_steps == fixed.num_steps


def test_a_session_sees_what_it_would_see_online() -> None:
    """Accepted counts cut off at the length, noisy durations, first steps flagged, previous lengths."""
    where = world(trace_source(LONG[:30], LONG[5:50]), (3, 2.0), noise=NoiseTerms(lognormal_sigma=0.05))
    controller, witness = _controller(where, 1)
    log = run(where, controller, seeds_of(1))
    steps = witness.steps
    assert [step.step_index for step in steps] == list(range(1, len(steps) + 1))
    assert max(max(step.accepted_drafts) for step in steps) == 1
    assert [step.duration_s for step in steps] == log.duration_s[: len(steps)]
    assert [step.previous_num_steps for step in steps[:3]] == [-1, 1, 1]
    assert steps[0].first_step == (True, True, True)
    assert steps[1].first_step == (False, False, False)
    tokens = [step.batch_size + sum(step.accepted_drafts) for step in steps]
    assert tokens == log.tokens[: len(steps)]
    flagged = sum(sum(step.first_step) for step in steps)
    assert 3 < flagged < sum(step.batch_size for step in steps) / 10


def test_telemetry_is_late() -> None:
    """Nothing is known before a batch of records was sent; what is young at the end never arrived."""
    where = world(trace_source(LONG), (1, 1.0))
    controller, witness = _controller(where, 1)
    seen: list[tuple[float, int]] = []
    decide = controller.session.decide

    def watch(query):  # type: ignore[no-untyped-def]
        seen.append((query.step_index, len(witness.steps)))
        return decide(query)

    controller.session.decide = watch  # type: ignore[method-assign]
    log = run(where, controller, seeds_of(1))
    for step_index, known in seen:
        asked_s = log.start_s[max(step_index - 2, 0)]
        ended = sum(
            1
            for start_s, took_s in zip(log.start_s, log.duration_s, strict=True)
            if start_s + took_s <= asked_s
        )
        assert known <= ended
        if asked_s < EXPORT_INTERVAL_S:
            assert known == 0
    assert 0 < len(witness.steps) < len(log.tokens)


def test_a_lease_is_used_while_it_covers_the_step() -> None:
    """Fewer asks than steps; every step but none falls back; a changed batch asks at once."""
    steady = world(trace_source(LONG), (1, 4.0))
    controller, _ = _controller(steady, 3)
    log = run(steady, controller, seeds_of(1))
    asked = controller.session.counters.decisions_total
    assert asked < len(log.tokens) / 4
    assert set(log.reason) == {"static"}
    changing = world(trace_source(LONG), *((1 + turn % 2, 0.05) for turn in range(40)))
    controller, _ = _controller(changing, 3)
    run(changing, controller, seeds_of(1))
    assert controller.session.counters.decisions_total >= 40


def test_oracles_pick_what_they_know() -> None:
    """By hand: alternating entries of 4 and 1, a draft that pays only where it is accepted."""
    file = step_time_file(
        verify=VerifyTerms(context_s_per_token=0.0, token_s=0.0, fixed_s=10e-3),
        draft={"eagle3": DraftTerms(fixed_s=5e-3)},
    )
    source = TraceSource((trace_source((4, 1, 1, 1, 1, 1, 1, 1)).traces[0],))
    where = world(source, (1, 0.2), file=file)
    lengths = run(where, Clairvoyant(where, CANDIDATES), seeds_of(1)).num_steps
    # 4 tokens in 25 ms at the start; then single tokens, cheapest with length 0.
    assert lengths[:6] == [3, 0, 0, 0, 0, 3]
    # On average: 8 tokens in 8, 7 and 5 steps of 10, 15 and 25 ms.
    assert set(run(where, PerfectModels(where, CANDIDATES), seeds_of(1)).num_steps) == {0}


def test_perfect_models_weigh_the_requests_that_run() -> None:
    """After a phase change, requests of the trace before may still be there."""
    good, bad = trace_source((8, 7, 6, 5, 4, 3, 2, 1) * 40), trace_source((1,) * 320)
    source = TraceSource((good.traces[0], bad.traces[0]))
    where = world(source, (1, 0.2), (1, 0.2))
    seeds = seeds_of(1)
    log = run(where, PerfectModels(where, CANDIDATES), seeds)
    assert set(log.num_steps) == {3}
    assert np.array(log.group_counts).tolist() == [[1, 0]] * len(log.tokens)


def test_a_drifting_machine_is_slow_in_the_same_seconds_for_everybody() -> None:
    """Ratios to a fixed length are fair only then."""
    noise = NoiseTerms(drift=DriftTerms(factors=(1.0, 2.0), mean_s=0.2))
    where = world(trace_source(LONG), (2, 2.0), noise=noise)
    factor_at = Drift(noise.drift, seeds_of(1).drift)
    for num_steps in CANDIDATES[:2]:
        log = run(where, FixedLength(num_steps), seeds_of(1))
        drift = Drift(noise.drift, seeds_of(1).drift)
        expected = [drift.factor(now_s) for now_s in log.start_s]
        assert [took / true for took, true in zip(log.duration_s, log.true_s, strict=True)] == pytest.approx(
            expected
        )
    assert {factor_at.factor(second / 10) for second in range(20)} == {1.0, 2.0}
