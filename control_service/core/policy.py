"""The interface of policies, and the simplest one."""

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


class StaticPolicy:
    """One length, whatever happens."""

    name = "static"

    def __init__(self, num_steps: int, max_running_requests: int) -> None:
        self.num_steps = num_steps
        self._tiers = (Tier(max_running_requests, num_steps),)

    def choose(self, query: StepQuery, view: ModelView) -> Choice:
        """Always the same; predictions come along where the models are ready."""
        predictions: tuple[Prediction, ...] = ()
        if view.forecaster is not None:
            predictions = view.forecaster.batch(query.batch_size, query.context_tokens).predictions()
        return Choice(self.num_steps, "static", self._tiers, predictions)

    def observe(self, step: StepObservation, view: ModelView) -> None:
        """Nothing to learn."""


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
