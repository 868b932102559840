"""A decision's margin: against the best of the others, in units of the difference's own error."""

from __future__ import annotations

import math

import pytest

from control_service.core.margin import margin_of, regret_ratio
from control_service.core.types import Choice, Prediction
from tests.unit.control_service.factories import query
from tests.unit.control_service.test_learned import learned


def prediction(num_steps: int, goodput: float, gap: float) -> Prediction:
    return Prediction(num_steps, goodput * 0.01, 0.01, goodput, 5.0, 0.02, 0.03, gap)


# Length 2 is the best; errors are of the difference to it.
PREDICTIONS = (prediction(0, 80.0, 0.05), prediction(1, 99.0, 0.02), prediction(2, 100.0, 0.0))


def choice(num_steps: int, predictions: tuple[Prediction, ...] = PREDICTIONS) -> Choice:
    return Choice(num_steps, "reason", (), predictions)


@pytest.mark.parametrize(
    ("num_steps", "runner_up", "gain_ratio", "error"),
    [(2, 1, 100 / 99 - 1, 0.02), (1, 2, -0.01, 0.02), (0, 2, -0.2, 0.05)],
)
def test_the_margin_is_against_the_best_of_the_others(
    num_steps: int, runner_up: int, gain_ratio: float, error: float
) -> None:
    margin = margin_of(choice(num_steps))
    assert margin is not None
    assert margin.runner_up_num_steps == runner_up
    assert margin.gain_ratio == pytest.approx(gain_ratio)
    assert margin.gain_standard_error_ratio == error
    assert margin.gain_standard_errors == pytest.approx(math.log1p(gain_ratio) / error)


@pytest.mark.parametrize("predictions", [(), PREDICTIONS[2:], PREDICTIONS[:2]])
def test_no_margin_without_a_prediction_and_a_rival(predictions: tuple[Prediction, ...]) -> None:
    assert margin_of(choice(2, predictions)) is None


def test_the_error_of_a_difference_is_smaller_than_the_lengths_own_errors_suggest() -> None:
    forecaster = learned().forecaster
    assert forecaster is not None
    step = query(1, 4, 800)
    predictions = forecaster.batch(step.batch_size, step.context_tokens).predictions()
    best = max(predictions, key=lambda p: p.goodput_tokens_per_s)
    assert best.gap_standard_error_ratio == 0.0
    for other in predictions:
        # Length 0 has no drafts, and so nothing in common with the best.
        if other is not best and other.num_steps > 0:
            own = [p.goodput_standard_error_tokens_per_s / p.goodput_tokens_per_s for p in (best, other)]
            assert 0.0 < other.gap_standard_error_ratio < math.hypot(*own)


@pytest.mark.parametrize(
    ("goodput", "best", "lost"),
    [(90.0, 100.0, 0.1), (100.0, 100.0, 0.0), (1.0, 0.0, 0.0), (1.0, math.inf, 0.0)],
)
def test_what_a_length_would_have_lost(goodput: float, best: float, lost: float) -> None:
    assert regret_ratio(goodput, best) == pytest.approx(lost)
