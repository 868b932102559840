"""The tour of a cold start: its order, and where it ends early."""

from __future__ import annotations

import pytest

from control_service.core.cold_start import (
    BURST_STEPS,
    FIRST_WAITS_MAX,
    PATIENCE_STEPS,
    ROUNDS,
    SLOW_STEP_S,
    SLOW_WAITS_MAX,
    ColdStart,
)
from tests.unit.control_service.factories import observation


def walk(
    tour: ColdStart, batch_size: int, step_s: dict[int, float], accepted: float, telemetry: bool = True
) -> list[int]:
    """The lengths run until the tour is over, each step told at once; a share of requests accepts all."""
    lengths: list[int] = []
    index, previous = 1, -1
    while (length := tour.length_at(index)) is not None:
        lengths.append(length)
        kept = round(accepted * batch_size)
        drafts = tuple([length] * kept + [0] * (batch_size - kept))
        if telemetry:
            tour.observe(observation(index, length, drafts, step_s[length], previous_num_steps=previous))
        index, previous = index + 1, length
    return lengths


def test_it_runs_none_then_every_length_from_the_shortest_on_and_again() -> None:
    lengths = walk(ColdStart((0, 1, 2, 5)), 4, dict.fromkeys((0, 1, 2, 5), 0.01), accepted=0.5)
    assert lengths == ROUNDS * [length for length in (0, 1, 2, 5) for _ in range(BURST_STEPS)]


def test_without_telemetry_it_is_run_to_its_end() -> None:
    walked = walk(ColdStart((0, 1, 2, 5)), 4, {}, 0.0, telemetry=False)
    assert len(walked) == (ROUNDS * 4 + FIRST_WAITS_MAX) * BURST_STEPS


def test_of_many_lengths_it_picks_some_with_the_longest_among_them() -> None:
    tour = walk(ColdStart(tuple(range(16))), 1, {}, 0.0, telemetry=False)
    assert tour[0] == 0
    assert tour[-1] == 15
    assert len(set(tour)) == 6


@pytest.mark.parametrize(
    ("name", "draft_ratio", "accepted", "longest"),
    [
        ("each draft costs a step: nothing can pay", 1.0, 1.0, 1),
        ("dear drafts, hardly any accepted", 0.2, 0.02, 1),
        ("dear drafts that are accepted", 0.2, 0.7, 5),
        ("free drafts, hardly any accepted", 0.0, 0.02, 5),
    ],
)
def test_it_goes_up_only_while_the_next_length_could_pay(
    name: str, draft_ratio: float, accepted: float, longest: int
) -> None:
    step_s = {length: 0.01 * (1.0 + draft_ratio * length) for length in (0, 1, 2, 3, 5)}
    lengths = walk(ColdStart((0, 1, 2, 3, 5)), 100, step_s, accepted)
    assert max(lengths) == longest, name


def test_times_of_another_batch_size_are_not_compared() -> None:
    tour = ColdStart((0, 1, 2))
    for index in (1, 2):
        assert tour.length_at(index) == 0
        tour.observe(observation(index, 0, (0,), 0.001))
    for index in (3, 4):
        assert tour.length_at(index) == 1
        # Ten times as slow, but for a batch of eight.
        tour.observe(observation(index, 1, (1,) * 8, 0.01))
    assert tour.length_at(5) == 2


def test_it_is_run_again_after_ever_longer_waits() -> None:
    tour = ColdStart((0, 3))
    steps = len(walk(tour, 1, {}, 0.0, telemetry=False))
    end = 1 + steps
    tour.repeat_if_due(end + PATIENCE_STEPS - 1)
    assert tour.length_at(end + PATIENCE_STEPS - 1) is None
    tour.repeat_if_due(end + PATIENCE_STEPS)
    assert tour.length_at(end + PATIENCE_STEPS) == 0
    assert tour.steps_left(end + PATIENCE_STEPS) == BURST_STEPS
    again = end + PATIENCE_STEPS + steps
    tour.repeat_if_due(again + PATIENCE_STEPS)
    assert tour.length_at(again + PATIENCE_STEPS) is None


def test_a_tour_that_was_not_applied_does_not_make_the_next_wait_longer() -> None:
    """A canary runs its launch length in most blocks; once obeyed it must not wait for thousands of steps."""
    tour = ColdStart((0, 3))
    steps = len(walk(tour, 1, {}, 0.0, telemetry=False))
    index = 1
    for _ in range(5):
        tour.observe(observation(index, 3, (0,), 0.01))
        index += steps + PATIENCE_STEPS
        tour.repeat_if_due(index)
        assert tour.length_at(index) == 0


def late(tour: ColdStart, step_s: float, late_steps: int, steps: int) -> list[int | None]:
    """The lengths of the first steps of a device without spare compute, each told so many steps late."""
    lengths: list[int | None] = []
    told = []
    for index in range(1, steps + 1):
        length = tour.length_at(index)
        previous = lengths[-1] if lengths and lengths[-1] is not None else -1
        lengths.append(length)
        ran = length or 0
        told.append(observation(index, ran, (0,) * 8, step_s * (1 + ran), previous_num_steps=previous))
        if index > late_steps:
            tour.observe(told[index - 1 - late_steps])
    return lengths


def test_where_steps_are_slow_no_length_is_run_before_the_one_below_was_heard_of() -> None:
    slow = late(ColdStart((0, 1, 2, 3, 5)), 2 * SLOW_STEP_S, late_steps=2, steps=24)
    assert slow[: 2 * BURST_STEPS] == [0] * BURST_STEPS + [1] * BURST_STEPS
    assert set(slow[2 * BURST_STEPS :]) == {0, None}, "waits, then knows that nothing can pay"
    fast = late(ColdStart((0, 1, 2, 3, 5)), SLOW_STEP_S / 10.0, late_steps=32, steps=32)
    waited = BURST_STEPS * (2 + FIRST_WAITS_MAX)
    assert fast[:waited] == [0] * BURST_STEPS + [1] * (waited - BURST_STEPS)
    assert max(length or 0 for length in fast[waited:]) == 5, "does not wait where waiting is many steps"


def test_no_longer_length_is_run_before_the_shortest_was_heard_of() -> None:
    """Steps that are not slow, of a device where drafts cost whole steps: telemetry comes just in time."""
    lengths = late(ColdStart((0, 1, 2, 3, 5)), SLOW_STEP_S / 3.0, late_steps=2 * FIRST_WAITS_MAX, steps=24)
    assert {1, None} == set(lengths[BURST_STEPS:])
    assert set(late(ColdStart((0, 5)), SLOW_STEP_S / 3.0, late_steps=64, steps=8)) == {0, 5}, "there is none"


def test_a_tour_without_hope_is_over_until_it_is_run_again() -> None:
    tour = ColdStart((0, 1, 2))
    lengths = late(tour, 2 * SLOW_STEP_S, late_steps=1, steps=200)
    first_none = lengths.index(None)
    assert set(lengths[first_none:]) == {None}, "its second time around holds no hope either"
    tour.repeat_if_due(200)
    assert tour.length_at(200) == 0


def test_telemetry_that_does_not_come_is_not_waited_for_for_ever() -> None:
    tour = ColdStart((0, 1, 2))
    for index in (1, 2):
        assert tour.length_at(index) == 0
        tour.observe(observation(index, 0, (0,), 2 * SLOW_STEP_S, previous_num_steps=0))
    lengths = [tour.length_at(index) for index in range(3, 3 + 2 * BURST_STEPS * SLOW_WAITS_MAX)]
    assert lengths[:BURST_STEPS] == [1] * BURST_STEPS
    assert lengths[BURST_STEPS : BURST_STEPS * (1 + SLOW_WAITS_MAX)] == [0] * (BURST_STEPS * SLOW_WAITS_MAX)
    assert lengths[BURST_STEPS * (1 + SLOW_WAITS_MAX)] == 2
    waiting = ColdStart((0, 1, 2))
    for index in (1, 2):
        waiting.length_at(index)
        waiting.observe(observation(index, 0, (0,), 2 * SLOW_STEP_S, previous_num_steps=0))
    first = 3 + BURST_STEPS
    assert [waiting.length_at(index) for index in (3, first, first)] == [1, 0, 0], (
        "asked twice, it waits once"
    )
    assert [waiting.steps_left(first + more) for more in range(BURST_STEPS)] == [2, 1]
