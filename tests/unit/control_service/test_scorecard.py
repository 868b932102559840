"""Regret, calibration and payoff are as they are defined, and tell the truth of an engine that is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_service.core.forecast import Forecaster
from control_service.core.scorecard import Scorecard
from control_service.core.types import Choice, Decision, Prediction
from tests.unit.control_service.factories import observation, query
from tests.unit.control_service.simulator import Simulation, World
from tests.unit.control_service.worlds import clients, constant, linear

GOODPUT = {0: 100.0, 1: 120.0, 3: 150.0}
STEP_S = {0: 0.010, 1: 0.0125, 3: 0.016}


def decision(step_index: int = 10, num_steps: int = 1, predicted: bool = True) -> Decision:
    predictions = tuple(
        Prediction(length, rate * STEP_S[length], STEP_S[length], rate, 0.0, 0.0, 0.0, 0.0)
        for length, rate in GOODPUT.items()
    )
    choice = Choice(num_steps, "best_goodput", (), predictions if predicted else ())
    return Decision(7, query(step_index, batch_size=2), "goodput", 1, choice)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """An engine that gains from every length, and scatters little."""
    world = World(
        "known", constant(0.8), linear(0.02, 0.0005, 0.05), clients(4), duration_s=30.0, warm_up_s=5.0
    )
    simulated = Simulation(world, seed=3)
    simulated.run()
    return simulated


@pytest.fixture(scope="module")
def forecaster(simulation: Simulation) -> Forecaster:
    made = simulation.session.models.forecaster
    assert made is not None
    return made


def test_regret_is_what_the_best_length_would_have_gained_in_the_same_time() -> None:
    card = Scorecard()
    card.observe(observation(10, 1, (1, 0)), None, decision())
    assert card.best_tokens == pytest.approx(150.0 * 0.0125)
    assert card.regret_tokens == pytest.approx(30.0 * 0.0125)
    card.observe(observation(11, 3, (3, 0)), None, decision())
    assert card.best_tokens == pytest.approx(150.0 * (0.0125 + 0.016))
    assert card.regret_tokens == pytest.approx(30.0 * 0.0125)


@pytest.mark.parametrize(
    ("step", "decided"),
    [
        (observation(10, 1, (1, 0)), None),
        (observation(10, 1, (1, 0)), decision(predicted=False)),
        # A batch that the decision was not made for.
        (observation(10, 1, (1, 0, 1)), decision()),
        # Before the decision: it was another service that gave this number.
        (observation(9, 1, (1, 0)), decision()),
        # A length that nothing was forecast for.
        (observation(10, 2, (1, 0)), decision()),
    ],
)
def test_steps_of_which_regret_cannot_be_said_are_left_out(step: object, decided: Decision | None) -> None:
    card = Scorecard()
    card.observe(step, None, decided)  # type: ignore[arg-type]
    assert (card.best_tokens, card.regret_tokens) == (0.0, 0.0)


@given(st.lists(st.sampled_from(sorted(GOODPUT)), max_size=50))
def test_regret_is_a_share_of_the_best(lengths: list[int]) -> None:
    card = Scorecard()
    for index, length in enumerate(lengths, start=10):
        card.observe(observation(index, length, (0, 0)), None, decision())
    assert 0.0 <= card.regret_tokens <= card.best_tokens
    assert (card.regret_tokens == 0.0) == (set(lengths) <= {3})


def test_calibration_leaves_out_first_steps_changed_lengths_and_length_0(forecaster: Forecaster) -> None:
    card = Scorecard()
    expected = forecaster.accepted_drafts(forecaster.lengths.index(3))
    card.observe(observation(1, 3, (3, 1)), forecaster, None)
    card.observe(observation(2, 3, (2, 0), first_step=(False, True)), forecaster, None)
    assert card.predicted_accepted_tokens == pytest.approx(3 * expected)
    assert card.realised_accepted_tokens == 3 + 1 + 2
    card.observe(observation(3, 3, (3, 3), previous_num_steps=1), forecaster, None)
    card.observe(observation(4, 0, (0, 0)), forecaster, None)
    assert card.realised_accepted_tokens == 6


def test_payoff_counts_drafting_steps_only_and_a_slow_one_at_most_twice(forecaster: Forecaster) -> None:
    card = Scorecard()
    index = forecaster.lengths.index(3)
    step = observation(1, 3, (3, 1))
    expected_s = forecaster.step_seconds(index, step.batch_size, step.context_tokens)
    without_s = forecaster.step_seconds(0, step.batch_size, step.context_tokens)
    card.observe(step._replace(duration_s=expected_s), forecaster, None)
    assert card.speculated_tokens == 2 + 4
    assert card.tokens_without_speculation == pytest.approx(2 * expected_s / without_s)
    card.observe(step._replace(step_index=2, duration_s=9.0), forecaster, None)
    assert card.tokens_without_speculation == pytest.approx(3 * 2 * expected_s / without_s)
    card.observe(observation(3, 0, (0, 0)), forecaster, None)
    assert card.speculated_tokens == 12


def test_in_a_closed_loop_they_say_what_is_true_of_the_engine(simulation: Simulation) -> None:
    card, result = simulation.session.scorecard, simulation.result
    truth = result.tokens / result.seconds / simulation.world.fixed(0)
    assert truth > 1.3
    assert card.speculated_tokens / card.tokens_without_speculation == pytest.approx(truth, rel=0.05)
    assert card.realised_accepted_tokens / card.predicted_accepted_tokens == pytest.approx(1.0, abs=0.05)
    assert card.regret_tokens / card.best_tokens < 0.02
