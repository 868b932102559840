"""The interface of policies, and what they share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from control_service.core.buckets import BatchBuckets
from control_service.core.forecast import Forecaster
from control_service.core.types import Choice, Prediction, StepObservation, StepQuery, Tier


class ModelView(NamedTuple):
    """What a policy may look at.

    forecaster: None while the models are not ready. generation: grows with every refit.
    observed_step_index: newest step seen in telemetry, 0 before the first. may_explore:
    whether what the policy answers is really run (it is not in shadow mode).
    """

    forecaster: Forecaster | None
    generation: int
    observed_step_index: int
    may_explore: bool


class Policy(Protocol):
    """Answers queries and hears of every observed step. Holds its own state, nothing else's."""

    @property
    def name(self) -> str:
        """As operators call it."""
        ...

    def choose(self, query: StepQuery, view: ModelView) -> Choice:
        """The length for the batch at hand, and for others around it."""
        ...

    def observe(self, step: StepObservation, view: ModelView) -> None:
        """One served step, after the models have learned it."""
        ...


def forecast_predictions(query: StepQuery, view: ModelView) -> tuple[Prediction, ...]:
    """What every length would do for the batch at hand; none while the models are not ready."""
    if view.forecaster is None:
        return ()
    return view.forecaster.batch(query.batch_size, query.context_tokens).predictions()


def merge_tiers(lengths_by_size: list[tuple[int, int]]) -> tuple[Tier, ...]:
    """Tiers from (batch size, length) pairs, ascending in size; neighbours of one length become one."""
    tiers: list[Tier] = []
    for size, length in lengths_by_size:
        if tiers and tiers[-1].num_steps == length:
            tiers[-1] = Tier(size, length)
        else:
            tiers.append(Tier(size, length))
    return tuple(tiers)


def tier_sizes(buckets: BatchBuckets, index: int, reach: int, max_running_requests: int) -> list[int]:
    """Upper bounds of the buckets within `reach` of bucket `index`, and the largest batch there can be."""
    around = buckets.sizes[max(0, index - reach) : index + reach + 1]
    sizes = [size for size in around if size < max_running_requests]
    return [*sizes, max(max_running_requests, 1)]
