"""Metrics of an engine: what is forecast for it, and how forecasts turned out."""

from __future__ import annotations

from typing import Final

from control_service.core.registry import EngineEntry
from control_service.core.scorecard import Scorecard
from control_service.core.types import Prediction
from control_service.server.metrics.labels import NUM_STEPS, POSITION
from control_service.server.metrics.measure import Measure, Point, one


def _scores(entry: EngineEntry) -> Scorecard:
    return entry.session.scorecard


def _predictions(entry: EngineEntry) -> tuple[Prediction, ...]:
    decisions = entry.session.decisions
    return decisions[-1].choice.predictions if decisions else ()


def _predicted_goodput(entry: EngineEntry, num_steps: int | None) -> list[Point]:
    """Of the newest decision: for one length, None for the length decided."""
    decisions = entry.session.decisions
    if not decisions:
        return []
    choice = decisions[-1].choice
    prediction = choice.prediction_for(choice.num_steps if num_steps is None else num_steps)
    return one(None if prediction is None else prediction.goodput_tokens_per_s)


def _by_length(entry: EngineEntry, field: str) -> list[Point]:
    return [((str(p.num_steps),), getattr(p, field)) for p in _predictions(entry)]


def _acceptance_rates(entry: EngineEntry) -> list[Point]:
    positions = entry.session.models.acceptance.positions()
    return [((str(p.position),), p.probability) for p in positions if not p.after_full_accept]


FORECAST_MEASURES: Final[tuple[Measure[EngineEntry], ...]] = (
    Measure(
        "gauge", "predicted_goodput_tokens_per_second",
        "Forecast of the newest decision for the length it chose.",
        lambda e: _predicted_goodput(e, None),
    ),
    Measure(
        "gauge", "predicted_goodput_without_speculation_tokens_per_second",
        "Forecast of the newest decision for length 0.",
        lambda e: _predicted_goodput(e, 0),
    ),
    Measure(
        "gauge", "candidate_goodput_tokens_per_second", "Forecast of the newest decision for each length.",
        lambda e: _by_length(e, "goodput_tokens_per_s"), (NUM_STEPS,),
    ),
    Measure(
        "gauge", "candidate_goodput_standard_error_tokens_per_second", "Standard error of that forecast.",
        lambda e: _by_length(e, "goodput_standard_error_tokens_per_s"), (NUM_STEPS,),
    ),
    Measure(
        "gauge", "candidate_step_seconds", "Step time that the newest decision forecast for each length.",
        lambda e: _by_length(e, "expected_step_s"), (NUM_STEPS,),
    ),
    Measure(
        "gauge", "acceptance_probability_ratio",
        "Estimated chance that a draft is accepted, given that all before it were.",
        _acceptance_rates, (POSITION,),
    ),
    Measure(
        "counter", "best_expected_tokens",
        "Of steps that ran under a decision with a forecast for every length: tokens that the best length was"
        " forecast to commit in the time forecast for the length that ran.",
        lambda e: one(_scores(e).best_tokens),
    ),
    Measure(
        "counter", "regret_tokens",
        "Of the same steps: by how many tokens the length that ran was forecast to fall short of that."
        " Divided by `turbospec_best_expected_tokens_total` over a window it is the regret; probes, held"
        " lengths and shadow mode show in it.",
        lambda e: one(_scores(e).regret_tokens),
    ),
    Measure(
        "counter", "calibration_predicted_accepted_tokens",
        "Accepted drafts as forecast just before each step was learned; of drafting steps that kept the"
        " length of the step before, without requests in their first step.",
        lambda e: one(_scores(e).predicted_accepted_tokens),
    ),
    Measure(
        "counter", "calibration_accepted_tokens",
        "Accepted drafts of the same steps as they came. Divided by"
        " `turbospec_calibration_predicted_accepted_tokens_total` over a window it is the calibration:"
        " 1 is perfect, below 1 the forecast hoped for too much.",
        lambda e: one(_scores(e).realised_accepted_tokens),
    ),
    Measure(
        "counter", "speculated_tokens",
        "Tokens committed by steps that drafted, once step times can be forecast.",
        lambda e: one(_scores(e).speculated_tokens),
    ),
    Measure(
        "counter", "tokens_without_speculation",
        "Tokens that length 0 was forecast to commit in the time those steps took; a step is counted as at"
        " most twice as slow as forecast. What drafting brings is"
        " `turbospec_speculated_tokens_total` divided by this over a window: above 1 it pays.",
        lambda e: one(_scores(e).tokens_without_speculation),
    ),
    Measure(
        "gauge", "step_time_model_ready", "1 while there is a fit of step times to decide by, else 0.",
        lambda e: one(float(e.session.models.step_time.fit is not None)),
    ),
    Measure("gauge", "model_generation", "Refits of the models.", lambda e: one(e.session.models.generation)),
)  # fmt: skip
