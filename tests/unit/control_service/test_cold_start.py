"""The tour of a cold start: its order, and where it ends early."""

from __future__ import annotations

import pytest

from control_service.core.cold_start import BURST_STEPS, PATIENCE_STEPS, ROUNDS, ColdStart
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
    assert len(walk(ColdStart((0, 1, 2, 5)), 4, {}, 0.0, telemetry=False)) == ROUNDS * 4 * BURST_STEPS


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
