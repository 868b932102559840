"""The history adds up, never grows past its bound, and tells one epoch's steps from another's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_service.server.web.history import SECONDS_KEPT, EngineHistory, Second
from tests.unit.control_service.factories import observation
from tests.unit.control_service.web.served import START_S, Served


def test_a_second_holds_what_its_steps_did() -> None:
    history = EngineHistory()
    history.observe(observation(1, 3, (3, 1), 0.02), None, 100.1)
    history.observe(observation(2, 3, (0, 0), 0.02, waiting_requests=4), None, 100.5)
    history.observe(observation(3, 0, (0,), 0.01, source="fallback"), None, 100.9)
    (second,) = history.since(0)
    assert (second.time_s, second.newest_step_index, second.steps) == (100, 3, 3)
    assert (second.num_steps, min(second.steps_by_num_steps), max(second.steps_by_num_steps)) == (3, 0, 3)
    assert second.batch_size == pytest.approx(5 / 3)
    # The requests of every step, and the drafts accepted.
    assert second.measured.per_s == pytest.approx((5 + 4) / 0.05)
    assert second.fallback_steps == 1
    assert math.isnan(second.predicted.per_s)
    assert math.isnan(second.without.per_s)


def test_only_so_many_seconds_are_kept_and_only_the_asked_for_are_given() -> None:
    history = EngineHistory()
    for index in range(1, 3 * SECONDS_KEPT):
        history.observe(observation(index, 1, (1,)), None, float(index))
    newest = 3 * SECONDS_KEPT - 1
    kept = history.since(0)
    assert len(kept) == SECONDS_KEPT
    assert kept[-1].time_s == newest
    assert [second.time_s for second in history.since(newest - 2)] == [newest - 2, newest - 1, newest]
    assert history.since(newest + 1) == []


def test_a_clock_that_is_set_back_never_makes_a_second_before_the_newest() -> None:
    history = EngineHistory()
    for index, now_s in enumerate((100.0, 102.0, 50.0, 101.0, 103.0), start=1):
        history.observe(observation(index, 1, (1,)), None, now_s)
    assert [(second.time_s, second.steps) for second in history.since(0)] == [(100, 1), (102, 3), (103, 1)]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 3]), st.integers(1, 4), st.floats(0.001, 1.0)),
        min_size=1,
        max_size=60,
    )
)
def test_the_total_of_a_time_is_the_sum_of_its_steps(steps: list[tuple[int, int, int, float]]) -> None:
    history = EngineHistory()
    now_s = 0.0
    for index, (later_s, length, batch, duration_s) in enumerate(steps, start=1):
        now_s += later_s
        history.observe(observation(index, length, (length,) * batch, duration_s), None, now_s)
    total = history.total(0)
    assert total.steps == len(steps)
    assert total.requests == sum(batch for _, _, batch, _ in steps)
    assert total.measured.tokens == sum(batch * (1 + length) for _, length, batch, _ in steps)
    assert total.measured.seconds == pytest.approx(sum(duration_s for *_, duration_s in steps))
    assert total.newest_step_index == len(steps)
    # Adding up must not change what is added.
    assert history.total(0) == total


def test_a_step_is_found_by_when_it_was_reported_unless_it_is_of_another_epoch_or_forgotten() -> None:
    history = EngineHistory()
    for index in range(1, 101):
        history.observe(observation(index, 1, (1,)), None, 1_000.0 + index // 10)
    # The engine starts anew and counts from 1.
    for index in range(1, 21):
        history.observe(observation(index, 1, (1,)), None, 2_000.0 + index // 10)
    assert history.reported_s(20) == 2_002
    assert history.reported_s(12) == 2_001
    assert history.reported_s(1) == 2_000
    assert history.reported_s(21) is None
    for index in range(21, 21 + SECONDS_KEPT):
        history.observe(observation(index, 1, (1,)), None, 3_000.0 + index)
    assert history.reported_s(2) is None


def test_of_too_many_engines_the_longest_silent_is_forgotten() -> None:
    served = Served(engines_max=2)
    for name in ("first", "second", "first", "third"):
        served.step_history.observe(served.attach(name).session, observation(1, 1, (1,)))
        served.registry.detach(name, 1)
        served.now_s += 10
    assert len(served.step_history) == 2
    assert served.history("second").newest_s is None
    assert served.history("first").newest_s == START_S + 20
    assert served.history("third").newest_s == START_S + 30


def test_both_forecasts_are_of_the_very_steps_that_ran() -> None:
    served = Served()
    entry = served.attach()
    served.serve(entry, 400)
    recent = served.history().total(served.now_s - 2)
    # All drafts of length 5 are accepted with chance 0.8, a step takes 12.5 ms; without drafts 10 ms.
    assert recent.without.per_s == pytest.approx(2 / 0.01, rel=0.05)
    assert recent.predicted.per_s == pytest.approx(recent.measured.per_s, rel=0.1)
    assert recent.measured.per_s == pytest.approx(2 * 5 / 0.0125, rel=0.1)
    assert Second(0).measured.seconds == 0.0
