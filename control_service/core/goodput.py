"""The goodput policy: run the length that commits the most tokens a second.

Scans every candidate (cost is a staircase, so goodput has several peaks), switches
only when the gain exceeds its uncertainty, and pays little to stay informed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from control_service.core.cold_start import ColdStart
from control_service.core.exploration import Prober
from control_service.core.forecast import BatchForecast, Forecaster
from control_service.core.guard import Guard
from control_service.core.policy import ModelView, merge_tiers, tier_sizes
from control_service.core.types import Choice, EngineProfile, Prediction, StepObservation, StepQuery, Tier

SWITCH_Z = 0.3
MIN_GAIN = 0.01
# Right after a switch another one must gain so much more, fading. A share of goodput, not standard errors:
# back and forth between near ties is all it shall prevent, not the way back from a bad choice.
REMORSE_GAIN = 0.04
# ... and somewhat more where another batch size asks for it: batches jitter.
REMORSE_GAIN_ELSEWHERE = 0.01
REMORSE_STEPS = 400.0
ANY_BUCKET = -1
SETTLE_STEPS = 200.0
TIER_REACH = 1
# Without anything new to judge by, whether to probe is asked again after so many steps: back-offs run out.
CONSIDER_STEPS = 32
# Without telemetry for this long the models describe the past: do not speculate on it.
STALE_STEPS = 2_000
CONTEXT_STEP_LOG2 = 0.25
# What is known of a batch size says little about one so many times as large or small.
FAR_RATIO = 4.0


class _Cached(NamedTuple):
    key: tuple[int, int, int]
    reason: str
    tiers: tuple[Tier, ...]
    forecast: BatchForecast
    predictions: tuple[Prediction, ...]


class GoodputPolicy:
    """State of one engine's choice: the length in force, and why it may change."""

    name = "goodput"

    def __init__(self, profile: EngineProfile, itl_target_s: float | None = None) -> None:
        """itl_target_s: longest step allowed, as expected; a reader sees one gap between chunks a step."""
        self._itl_target_s = itl_target_s
        self._lengths = profile.candidate_num_steps
        self._max_running_requests = profile.max_running_requests
        self._launch_num_steps = profile.launch_num_steps
        self._cold_start = ColdStart(self._lengths)
        # The batch bucket that a tour is made for while there are models already, and all it was made for.
        self._toured_bucket: int | None = None
        self._toured: set[int] = set()
        self._prober = Prober()
        self._guard = Guard()
        self._incumbent: int | None = None
        # Step index; long ago to begin with.
        self._switched_at = -math.inf
        self._switched_bucket = ANY_BUCKET
        # Step index of the choice that nothing speaks for yet; long ago if there is none.
        self._settled_at = -math.inf
        # Changes of acceptance that this choice knows of.
        self._changes_known = 0
        self._first_step_index: int | None = None
        self._consider_at = 0
        self._cached: _Cached | None = None

    def choose(self, query: StepQuery, view: ModelView) -> Choice:
        """See the module; the reason says which rule decided."""
        if self._first_step_index is None:
            self._first_step_index = query.step_index
        if query.step_index - max(view.observed_step_index, self._first_step_index) > STALE_STEPS:
            return self._everywhere(0, "telemetry_stale")
        if self._guard.holds(query.step_index):
            return self._everywhere(0, "guard")
        if view.forecaster is None or self._incumbent is None:
            choice = self._without_models(query, view)
            if choice is not None:
                return choice
        assert view.forecaster is not None
        return self._with_models(query, view, view.forecaster)

    def observe(self, step: StepObservation, view: ModelView) -> None:
        """Tell the cold start of every step, and the guard of those that ran the length in force."""
        if self._incumbent is None or self._toured_bucket is not None:
            self._cold_start.observe(step)
        if view.forecaster is None or self._incumbent is None or step.num_steps == 0:
            return
        if step.num_steps != self._lengths[self._incumbent] or any(step.first_step):
            return
        self._guard.observe(
            step_index=step.step_index,
            batch_size=step.batch_size,
            tokens=step.batch_size + sum(step.accepted_drafts),
            duration_s=step.duration_s,
            expected_s=view.forecaster.step_seconds(self._incumbent, step.batch_size, step.context_tokens),
            expected_s_without=view.forecaster.step_seconds(0, step.batch_size, step.context_tokens),
        )
        if self._guard.holds(step.step_index):
            self._incumbent = 0
            self._cached = None

    def _without_models(self, query: StepQuery, view: ModelView) -> Choice | None:
        """The tour of a cold start; None once it is over and there is a fit to choose by."""
        if not view.may_explore:
            if view.forecaster is not None:
                return None
            return self._everywhere(self._launch_num_steps, "models_not_ready")
        if view.forecaster is None or not self._is_warm(view):
            length = self._cold_start.length_at(query.step_index)
            if length is not None:
                return self._on_tour(length, query.step_index)
        if view.forecaster is not None:
            return None
        self._cold_start.repeat_if_due(query.step_index)
        return self._everywhere(0, "models_not_ready" if view.observed_step_index else "no_telemetry")

    def _is_warm(self, view: ModelView) -> bool:
        """Whether the models were ready before this policy saw its first step."""
        return view.observed_step_index < (self._first_step_index or 0)

    def _with_models(self, query: StepQuery, view: ModelView, forecaster: Forecaster) -> Choice:
        bucket = forecaster.buckets.index(query.batch_size)
        if view.may_explore:
            choice = self._tour_of(bucket, query.step_index, forecaster)
            if choice is not None:
                return choice
        probe = self._prober.running_at(query.step_index)
        context = int(math.log2(query.context_tokens + 1.0) / CONTEXT_STEP_LOG2)
        key = (view.generation, query.batch_size, context)
        cached = self._cached
        if cached is None or cached.key != key:
            cached = self._evaluate(key, query, bucket, forecaster)
            self._consider_at = query.step_index
        assert self._incumbent is not None
        if probe is None and view.may_explore and query.step_index >= self._consider_at:
            self._consider_at = query.step_index + CONSIDER_STEPS
            probe = self._prober.consider(
                query.step_index, view.observed_step_index, bucket, cached.forecast, self._incumbent
            )
        if probe is not None:
            upper = max(forecaster.buckets.sizes[bucket], query.batch_size)
            tiers = _override(cached.tiers, query.batch_size, upper, probe.num_steps)
            left = probe.last_step_index - query.step_index + 1
            return Choice(probe.num_steps, "probe", tiers, cached.predictions, left)
        return Choice(self._lengths[self._incumbent], cached.reason, cached.tiers, cached.predictions)

    def _tour_of(self, bucket: int, step_index: int, forecaster: Forecaster) -> Choice | None:
        """A tour for a batch far from any whose costs are known; None if there is nothing to tour."""
        if bucket != self._toured_bucket:
            self._toured_bucket = None
            if self._is_far(bucket, forecaster):
                self._toured_bucket = bucket
                self._cold_start = ColdStart(self._lengths)
        if self._toured_bucket is None:
            return None
        self._toured.add(bucket)
        length = self._cold_start.length_at(step_index)
        if length is not None:
            return self._on_tour(length, step_index)
        self._toured_bucket = None
        return None

    def _is_far(self, bucket: int, forecaster: Forecaster) -> bool:
        sizes = forecaster.buckets.sizes
        known = self._toured.union(np.flatnonzero((forecaster.fit.weight > 0.0).sum(axis=1) > 1).tolist())
        return all(not 1.0 / FAR_RATIO < sizes[bucket] / sizes[place] < FAR_RATIO for place in known)

    def _on_tour(self, num_steps: int, step_index: int) -> Choice:
        left = self._cold_start.steps_left(step_index)
        return self._everywhere(num_steps, "cold_start")._replace(hold_steps=left)

    def _evaluate(
        self, key: tuple[int, int, int], query: StepQuery, bucket: int, forecaster: Forecaster
    ) -> _Cached:
        forecast = self._forecast(forecaster, query.batch_size, query.context_tokens)
        if forecaster.changes_total != self._changes_known:
            self._changes_known = forecaster.changes_total
            self._start_over(query.step_index)
        before = self._incumbent
        reason = self._settle(query, bucket, forecast)
        assert self._incumbent is not None
        if before is not None and before != self._incumbent:
            self._prober.forget_backoff(bucket)
        per_request = query.context_tokens / query.batch_size
        lengths_by_size = []
        for size in tier_sizes(forecaster.buckets, bucket, TIER_REACH, self._max_running_requests):
            if forecaster.buckets.index(size) == bucket:
                length = self._lengths[self._incumbent]
            else:
                elsewhere = self._forecast(forecaster, size, per_request * size)
                length = self._lengths[_better(elsewhere, self._incumbent, SWITCH_Z, 0.0)]
            lengths_by_size.append((size, length))
        cached = _Cached(key, reason, merge_tiers(lengths_by_size), forecast, forecast.predictions())
        self._cached = cached
        return cached

    def _forecast(self, forecaster: Forecaster, batch_size: int, context_tokens: float) -> BatchForecast:
        forecast = forecaster.batch(batch_size, context_tokens)
        return forecast if self._itl_target_s is None else forecast.within(self._itl_target_s)

    def _settle(self, query: StepQuery, bucket: int, forecast: BatchForecast) -> str:
        """Keep or replace the length in force; returns the reason."""
        if self._incumbent is None:
            self._incumbent, self._settled_at = forecast.best, query.step_index
            return "best_goodput"
        z, remorse_gain = self._switch_z(query.step_index), self._remorse_gain(query.step_index, bucket)
        best = _better(forecast, self._incumbent, z, remorse_gain)
        if best != self._incumbent:
            self._incumbent = best
            self._switched_at, self._switched_bucket = query.step_index, bucket
            return "best_goodput"
        return "best_goodput" if forecast.best == self._incumbent else "hold_within_uncertainty"

    def _start_over(self, step_index: int) -> None:
        """Another load: what spoke for the length in force, and against looking at others, is past."""
        if step_index - self._settled_at < SETTLE_STEPS:
            # The choice has not settled yet: the load is still coming up, and soon looks different again.
            self._settled_at = -math.inf
            self._switched_at, self._switched_bucket = step_index, ANY_BUCKET
        else:
            self._settled_at = step_index
            self._switched_at = -math.inf
        self._prober.forget_backoffs()

    def _switch_z(self, step_index: int) -> float:
        # The first choice was made with what little the tour had told by then: nothing speaks for it yet.
        return SWITCH_Z * (1.0 - math.exp((self._settled_at - step_index) / SETTLE_STEPS))

    def _remorse_gain(self, step_index: int, bucket: int) -> float:
        gain = REMORSE_GAIN if bucket == self._switched_bucket else REMORSE_GAIN_ELSEWHERE
        return gain * math.exp((self._switched_at - step_index) / REMORSE_STEPS)

    def _everywhere(self, num_steps: int, reason: str) -> Choice:
        return Choice(num_steps, reason, (Tier(self._max_running_requests, num_steps),), ())


def _better(forecast: BatchForecast, incumbent: int, z: float, extra_gain: float) -> int:
    """The best length if it beats the incumbent beyond doubt and by that much more, else the incumbent."""
    best = forecast.best
    if best == incumbent:
        return incumbent
    gain, error = forecast.gains(incumbent)
    return best if gain[best] > max(MIN_GAIN, z * float(error[best])) + extra_gain else incumbent


def _override(tiers: tuple[Tier, ...], batch_size: int, upper: int, num_steps: int) -> tuple[Tier, ...]:
    """The tiers with `num_steps` for the batch at hand and its bucket, others as they are."""
    below = [tier for tier in tiers if tier.max_batch_size < batch_size]
    covering = next((tier for tier in tiers if tier.max_batch_size >= batch_size), None)
    if covering is not None and batch_size > 1 and (not below or below[-1].max_batch_size < batch_size - 1):
        below.append(Tier(batch_size - 1, covering.num_steps))
    above = [tier for tier in tiers if tier.max_batch_size > upper]
    return (*below, Tier(upper, num_steps), *above)
