"""Sessions and their registry: fencing, generations, counters, modes, policies, limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_service.core.counters import REASONS_MAX, EngineCounters, Histogram
from control_service.core.registry import EngineRegistry, FencedEpochError, TooManyEnginesError, make_policy
from control_service.core.session import (
    QUIET_AFTER_STEPS,
    REFIT_SECONDS,
    REFIT_SECONDS_QUIET,
    REFIT_STEPS,
    REFIT_STEPS_MIN,
    REFIT_STEPS_QUIET,
    REMEMBERED_STEPS,
    EngineSession,
    LeaseTerms,
)
from control_service.core.types import Lease, Mode
from control_service.core.validation import InvalidFieldError
from tests.unit.control_service.factories import observation, profile, query


def registry(engines_max: int = 4, mode: Mode = Mode.ENFORCE, **terms: int) -> EngineRegistry:
    return EngineRegistry(engines_max=engines_max, mode=mode, terms=LeaseTerms(**terms))


def session(**changes: object) -> EngineSession:
    return registry().attach(profile(**changes), 1).session


def serve(target: EngineSession, steps: int, start: int = 1, batch: int = 2) -> list[Lease]:
    """Run an obedient engine whose drafts are good and cheap."""
    rng, leases, previous = random.Random(0), [], -1
    for index in range(start, start + steps):
        lease = target.decide(query(index, batch, 100 * batch))
        leases.append(lease)
        length = next((t.num_steps for t in lease.tiers if t.max_batch_size >= batch), 0)
        accepted = tuple(length if rng.random() < 0.8 else 0 for _ in range(batch))
        duration_s = (0.01 + 0.0005 * length) * rng.lognormvariate(0.0, 0.02)
        target.observe(observation(index, length, accepted, duration_s, previous_num_steps=previous))
        previous = length
        if target.needs_refit:
            target.refit()
    return leases


def test_decisions_are_numbered_kept_and_explained_up_to_a_limit() -> None:
    target = registry(decisions_kept=10).attach(profile(), 1).session
    leases = serve(target, 50)
    assert [lease.decision_id for lease in leases] == list(range(1, 51))
    assert target.decision(40) is None
    newest, kept = target.decision(0), target.decision(41)
    assert newest is not None
    assert kept is not None
    assert (newest.decision_id, kept.decision_id) == (50, 41)
    assert kept.query.step_index == 41
    assert target.decision(51) is None


def test_a_first_fit_exists_after_the_tour_and_the_best_length_is_chosen() -> None:
    target = session()
    leases = serve(target, 60)
    reasons = [decision.choice.reason for decision in target.decisions]
    assert reasons[:20] == ["cold_start"] * 20
    assert target.models.forecaster is not None
    assert {tier.num_steps for tier in leases[-1].tiers} == {5}
    generations = [lease.model_generation for lease in leases]
    assert generations == sorted(generations)


def steps_to_refit(
    target: EngineSession, num_steps: int = 5, accepted: tuple[int, ...] = (5, 0), duration_s: float = 0.005
) -> int:
    """Observe like steps until a refit is due, and make it; returns how many."""
    count = 0
    while not target.needs_refit:
        count += 1
        assert target.newest_step is not None
        index = target.newest_step.step_index + 1
        target.observe(observation(index, num_steps, accepted, duration_s, previous_num_steps=num_steps))
    target.refit()
    return count


def test_an_engine_that_stays_in_one_regime_is_refitted_seldom() -> None:
    target = session()
    serve(target, 100)
    steps_to_refit(target)
    counts = [steps_to_refit(target) for _ in range(QUIET_AFTER_STEPS // REFIT_STEPS + 1)]
    assert counts[0] == REFIT_STEPS
    assert counts[-1] == REFIT_STEPS_QUIET
    assert steps_to_refit(target, num_steps=0, accepted=(0, 0)) == REFIT_STEPS


def test_slow_steps_are_refitted_by_the_clock_and_a_change_of_acceptance_at_once() -> None:
    target = session()
    serve(target, 100)
    slow_s = 0.125
    steps_to_refit(target, accepted=(5, 5), duration_s=slow_s)
    counts = [
        steps_to_refit(target, accepted=(5, 5), duration_s=slow_s)
        for _ in range(int(QUIET_AFTER_STEPS * slow_s / REFIT_SECONDS) + 1)
    ]
    assert counts[0] == REFIT_SECONDS / slow_s
    assert counts[-1] == REFIT_SECONDS_QUIET / slow_s
    assert steps_to_refit(target, accepted=(0, 0), duration_s=slow_s) < counts[-1]


def test_what_a_probe_saw_is_taken_in_at_once() -> None:
    """The next probe, and the choice, wait for it."""
    target = session()
    serve(target, 100)
    needed = []
    for start, reason in ((1_001, "best_goodput"), (1_011, "probe")):
        newest = target.decisions[-1]
        target.decisions[-1] = newest._replace(choice=newest.choice._replace(reason=reason))
        target.refit()
        for index in range(start, start + REFIT_STEPS_MIN):
            step = observation(index, 5, (5, 0), 0.005, previous_num_steps=5)
            target.observe(step._replace(decision_id=newest.decision_id))
        needed.append(target.needs_refit)
    assert needed == [False, True]


def test_without_telemetry_nothing_is_speculated_on() -> None:
    target = session()
    lengths = [target.decide(query(index)).tiers[0].num_steps for index in range(1, 60)]
    assert set(lengths[35:]) == {0}
    assert target.decisions[-1].choice.reason == "no_telemetry"


def test_when_telemetry_stops_speculation_stops() -> None:
    target = session()
    serve(target, 100)
    lease = target.decide(query(100 + 2_001))
    assert [tier.num_steps for tier in lease.tiers] == [0]
    assert target.decisions[-1].choice.reason == "telemetry_stale"


def test_the_guard_reverts_a_speculation_that_loses_and_says_so() -> None:
    """What the fit believes in no longer pays; the measured ratio says so, without waiting for a refit."""
    target = session()
    serve(target, 100)
    assert target.decisions[-1].choice.num_steps == 5
    for index in range(101, 1_200):
        lease = target.decide(query(index, 2, 200))
        # Nothing is accepted any more and steps take long, but no refit tells the policy.
        length = lease.tiers[0].num_steps
        target.observe(observation(index, length, (0, 0), 0.0125))
        if target.decisions[-1].choice.reason == "guard":
            break
    assert target.decisions[-1].choice.reason == "guard"
    assert target.decisions[-1].choice.num_steps == 0


def test_shadow_decides_without_exploring_and_off_decides_nothing() -> None:
    shadow = registry(mode=Mode.SHADOW).attach(profile(), 1).session
    for index in range(1, 60):
        shadow.decide(query(index))
    assert {decision.choice.reason for decision in shadow.decisions} == {"models_not_ready"}
    assert shadow.decisions[-1].choice.num_steps == 5
    shadow.set_mode(Mode.OFF, 0)
    lease = shadow.decide(query(60))
    assert (lease.mode, lease.tiers, lease.decision_id) == (Mode.OFF, (), 0)


def test_duplicates_and_latecomers_are_refused() -> None:
    target = session()
    assert target.observe(observation(5, 3, (1,))) is None
    assert target.observe(observation(5, 3, (1,))) == "duplicate_step"
    assert target.observe(observation(4, 3, (1,))) is None
    for index in range(6, 6 + REMEMBERED_STEPS):
        target.observe(observation(index, 3, (1,)))
    assert target.observe(observation(1, 3, (1,))) == "stale_step"
    assert target.counters.drops_by_cause == {"duplicate_step": 1, "stale_step": 1}


def test_an_engine_that_does_not_know_its_context_is_answered_with_the_newest() -> None:
    target = session()
    serve(target, 60, batch=2)
    target.decide(query(61, 4, 0))
    assert target.decisions[-1].choice.prediction_for(5) is not None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_fencing_and_generations_hold_for_any_sequence(events: list[tuple[int, bool, bool]]) -> None:
    engines, newest = registry(), 0
    generation_of: dict[int, int] = {}
    for stream_id, (epoch, refit, decide) in enumerate(events, start=1):
        if epoch < newest:
            with pytest.raises(FencedEpochError):
                engines.attach(profile(epoch=epoch), stream_id)
            continue
        newest = epoch
        target = engines.attach(profile(epoch=epoch), stream_id).session
        assert target.profile.epoch == newest
        if refit:
            target.refit()
        if decide:
            lease = target.decide(query(stream_id))
            assert lease.epoch == newest
            assert lease.model_generation >= generation_of.get(newest, 0)
            generation_of[newest] = lease.model_generation


def test_a_restart_starts_warm_on_the_same_machine_only() -> None:
    engines = registry()
    before = engines.attach(profile(epoch=1), 1).session
    serve(before, 100)
    warm = engines.attach(profile(epoch=2), 2).session
    assert warm.models is before.models
    assert warm.counters.steps_total == 0
    serve(warm, 1)
    assert warm.decisions[0].choice.reason == "best_goodput"
    cold = engines.attach(profile(epoch=3, dtype="bfloat16"), 3).session
    assert cold.models is not before.models


def test_the_learned_key_ignores_who_and_when_only() -> None:
    assert profile(engine_id="x", epoch=9).learned_key() == profile().learned_key()
    assert profile(accelerator="H100").learned_key() != profile().learned_key()


def test_a_detached_stream_cannot_disconnect_its_successor() -> None:
    engines = registry()
    engines.attach(profile(), 1)
    entry = engines.attach(profile(), 2)
    engines.detach("engine", 1)
    assert entry.connected
    engines.detach("engine", 2)
    assert not entry.connected


def test_room_is_made_by_the_engine_gone_longest() -> None:
    engines = registry(engines_max=2)
    engines.attach(profile(engine_id="a"), 1)
    engines.attach(profile(engine_id="b"), 2)
    with pytest.raises(TooManyEnginesError):
        engines.attach(profile(engine_id="c"), 3)
    engines.detach("b", 2)
    engines.attach(profile(engine_id="c"), 3)
    assert engines.get("b") is None
    assert len(engines) == 2
    assert engines.evicted_total == 1


@pytest.mark.parametrize(
    ("name", "parameters", "field"),
    [
        ("best", {}, "policy"),
        ("static", {}, "parameters.num_steps"),
        ("static", {"num_steps": "4"}, "parameters.num_steps"),
        ("static", {"num_steps": "-1"}, "parameters.num_steps"),
        ("static", {"num_steps": "2", "x": "y"}, "parameters"),
        ("goodput", {"margin": "1"}, "parameters"),
    ],
)
def test_policies_are_made_by_name_or_refused_by_field(
    name: str, parameters: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        make_policy(name, parameters, profile())
    assert caught.value.field == field


def test_a_static_policy_answers_its_length_whatever_happens() -> None:
    target = session()
    target.set_policy(make_policy("static", {"num_steps": "2"}, profile()))
    leases = serve(target, 80)
    assert {lease.tiers for lease in leases} == {((16, 2),)}


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 100.0), max_size=50))
def test_a_histogram_adds_up(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    expected = [sum(1 for value in values if value <= bound) for bound in histogram.bounds]
    assert histogram.cumulative() == [*expected, len(values)]
    assert histogram.sum == pytest.approx(sum(values))


def test_odd_reasons_do_not_grow_without_bound() -> None:
    counters = EngineCounters(5)
    for index in range(100):
        counters.count_step(observation(index + 1, 0, (0,), source="fallback", fallback_reason=f"r{index}"))
    assert len(counters.fallbacks_by_reason) == REASONS_MAX + 1
    assert counters.fallbacks_by_reason["other"] == 100 - REASONS_MAX
