"""The published algorithm: its constants, its rhythm, and its known blindness at length 0."""

from __future__ import annotations

from itertools import pairwise

import pytest

from control_service.core.policies.linear_time import LinearStepTime
from control_service.core.policies.make import make_policy
from control_service.core.policies.turbospec import DECISION_STEPS, TurboSpecPolicy
from control_service.core.types import Choice
from tests.unit.control_service.factories import observation, profile, query
from tests.unit.control_service.policies.views import view

LENGTHS = (0, 1, 2, 3, 5)
TOUR_STEPS = 5 * len(LENGTHS)


def made(acceptance: str = "reached") -> TurboSpecPolicy:
    policy = make_policy("turbospec", {"acceptance": acceptance}, profile(candidate_num_steps=LENGTHS))
    assert isinstance(policy, TurboSpecPolicy)
    return policy


def seconds(batch: int, length: int) -> float:
    return 0.02 + 0.0005 * batch + 1e-4 * batch * (length + 1) + (0.001 + 0.0005 * length) * (length > 0)


def serve(
    policy: TurboSpecPolicy, first: int, steps: int, accepted: int, batch: int = 2, slowdown: float = 1.0
) -> list[Choice]:
    """Runs what the policy says; `accepted` of every draft, or as many as were drafted."""
    choices = []
    for index in range(first, first + steps):
        choice = policy.choose(query(index, batch), view())
        length = choice.num_steps
        cost = seconds(batch, length) * (slowdown if length else 1.0)
        policy.observe(observation(index, length, (min(accepted, length),) * batch, cost), view())
        choices.append(choice)
    return choices


def test_the_rate_starts_at_seven_tenths_and_moves_by_fifteen_hundredths() -> None:
    policy = made()
    assert policy.rate == 0.7
    # Two requests, three drafts each: one takes all, one takes one and fails at the second.
    policy.observe(observation(1, 3, (3, 1)), view())
    assert policy.rate == pytest.approx(0.85 * 0.7 + 0.15 * 4 / 5)


def test_the_literal_quotient_counts_drafts_behind_a_rejection() -> None:
    policy = made("drafted")
    policy.observe(observation(1, 3, (3, 1)), view())
    assert policy.rate == pytest.approx(0.85 * 0.7 + 0.15 * 4 / 6)


def test_expected_tokens_are_the_geometric_sum() -> None:
    policy = made()
    assert policy.expected_tokens(0) == 1.0
    assert policy.expected_tokens(3) == pytest.approx(1 + 0.7 + 0.7**2 + 0.7**3)
    for _ in range(2_000):
        policy.observe(observation(1, 5, (5,)), view())
    assert policy.expected_tokens(5) == pytest.approx(6.0)


def test_first_a_tour_that_prices_every_length_and_leaves_the_rate_alone() -> None:
    policy = made()
    tour = serve(policy, 1, TOUR_STEPS, accepted=0)
    assert [choice.num_steps for choice in tour[::5]] == [5, 3, 2, 1, 0]
    assert {choice.reason for choice in tour} == {"cold_start"}
    assert policy.rate == 0.7


def test_then_a_decision_every_twenty_steps_and_length_0_before_the_first() -> None:
    policy = made()
    serve(policy, 1, TOUR_STEPS, accepted=5)
    choices = serve(policy, TOUR_STEPS + 1, 5 * DECISION_STEPS, accepted=5)
    assert [choice.num_steps for choice in choices[:DECISION_STEPS]] == [0] * DECISION_STEPS
    assert choices[DECISION_STEPS].reason == "best_goodput"
    for start in range(0, len(choices), DECISION_STEPS):
        assert len({choice.num_steps for choice in choices[start : start + DECISION_STEPS]}) == 1
    assert choices[-1].num_steps == 5


def test_an_answer_stands_until_the_next_change_and_no_longer() -> None:
    choices = serve(made(), 1, TOUR_STEPS + 200, accepted=3)
    for index, choice in enumerate(choices):
        assert choice.hold_steps is not None
        assert {held.num_steps for held in choices[index : index + choice.hold_steps]} == {choice.num_steps}
    due = [index for index, choice in enumerate(choices) if choice.hold_steps == 1]
    assert due[: len(LENGTHS)] == [4, 9, 14, 19, 24]
    assert {later - earlier for earlier, later in pairwise(due[len(LENGTHS) :])} == {DECISION_STEPS}


def test_one_length_for_all_batches() -> None:
    choices = serve(made(), 1, 100, accepted=5)
    assert {choice.tiers for choice in choices} == {((16, choice.num_steps),) for choice in choices}


@pytest.mark.parametrize(("gain", "chosen"), [(1.08, 0), (1.12, 1)])
def test_speculation_must_beat_none_by_a_tenth(gain: float, chosen: int) -> None:
    """Step times are set so that length 1, of 1.7 tokens at the first rate, would bring `gain`."""
    policy = TurboSpecPolicy(profile(candidate_num_steps=(0, 1), launch_num_steps=1))
    policy.choose(query(1), view(may_explore=False))
    for index in range(1, 41):
        length = index % 2
        policy.observe(observation(index, length, (0,), 1.7 / gain if length else 1.0), view())
    policy.rate = 0.7
    assert policy.choose(query(21), view(may_explore=False)).num_steps == chosen


def test_the_scan_stops_where_goodput_first_falls() -> None:
    """Length 2 would be best by far, behind a length 1 that does not pay: the original never gets there."""
    policy = TurboSpecPolicy(profile(candidate_num_steps=(0, 1, 2), launch_num_steps=2))
    policy.choose(query(1), view(may_explore=False))
    costs = {0: 1.0, 1: 2.0, 2: 0.5}
    for index in range(1, 61):
        length = index % 3
        policy.observe(observation(index, length, (0,), costs[length]), view())
    policy.rate = 0.7
    assert policy.choose(query(21), view(may_explore=False)).num_steps == 0


def test_at_length_0_it_learns_nothing_and_stays_there() -> None:
    """The trap that `goodput` probes its way out of; a faithful copy has to have it."""
    policy = made()
    serve(policy, 1, TOUR_STEPS + 2 * DECISION_STEPS, accepted=0, slowdown=1.0)
    trapped = serve(policy, 200, 400, accepted=0)
    assert trapped[-1].num_steps == 0
    rate = policy.rate
    after = serve(policy, 600, 400, accepted=5)
    assert {choice.num_steps for choice in after} == {0}
    assert policy.rate == rate


def test_a_restarted_engine_is_decided_for_at_once_without_another_tour() -> None:
    policy = made()
    serve(policy, 1, 500, accepted=5)
    again = serve(policy, 1, 2 * DECISION_STEPS, accepted=5)
    assert {choice.reason for choice in again} == {"best_goodput"}


def test_in_shadow_it_makes_no_tour() -> None:
    policy = made()
    choices = [policy.choose(query(index), view(may_explore=False)) for index in range(1, 60)]
    assert {(choice.num_steps, choice.reason) for choice in choices} == {(0, "models_not_ready")}


def test_a_linear_truth_is_recovered() -> None:
    times = LinearStepTime()
    for index in range(400):
        batch, length = 1 + 7 * index % 32, LENGTHS[index % 5]
        context = 37 * (index % 11) * batch
        cost = seconds(batch, length) + 1e-7 * context
        times.observe(observation(index, length, (0,) * batch, cost, context_tokens=context))
    times.fit()
    assert times.ready
    assert times.seconds(40, 9_000, 4) == pytest.approx(seconds(40, 4) + 9e-4, rel=1e-6)


def test_one_batch_size_alone_still_gives_a_fit_there() -> None:
    """Collinear features must not blow up: batch, tokens and constant are one direction here."""
    times = LinearStepTime()
    for index in range(100):
        length = LENGTHS[index % 5]
        times.observe(observation(index, length, (0,) * 4, seconds(4, length)))
    times.fit()
    for length in LENGTHS:
        assert times.seconds(4, 400, length) == pytest.approx(seconds(4, length), rel=1e-6)


def test_one_length_alone_gives_none() -> None:
    times = LinearStepTime()
    for index in range(100):
        times.observe(observation(index, 3, (0,), 0.02))
    times.fit()
    assert not times.ready
