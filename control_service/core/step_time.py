"""The step-time model: learns served steps, refits when told, says when it is not ready."""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

from control_service.core.buckets import BatchBuckets
from control_service.core.samples import RegimeSamples
from control_service.core.step_fit import StepTimeFit, fit_step_times
from control_service.core.types import CellEstimate, StepObservation

MIN_LENGTHS = 2
MIN_SAMPLES = 8
# Until a cell has so many samples, those of steps that have just changed length count too.
CHANGED_SAMPLES = 8
ERRORS_KEPT = 64
# Beyond this scatter the features do not describe the engine at all.
MAX_SPREAD = 1.0


class StepTimeModel:
    """Price of a decode step by length, batch size and context.

    A step whose length has just changed may pay for the change (cold draft state, another graph), which
    is not a price of the length: it is learned from only where there is little else.
    """

    def __init__(self, lengths: tuple[int, ...], buckets: BatchBuckets) -> None:
        self._lengths = lengths
        self._index = {length: index for index, length in enumerate(lengths)}
        self._buckets = buckets
        self._samples = RegimeSamples()
        self._clock = 0
        self._seen_by_length: dict[int, int] = {}
        self._errors: dict[tuple[int, int], deque[float]] = {}
        self._counts: dict[tuple[int, int], int] = {}
        self.changed_steps_total = 0
        self.fit: StepTimeFit | None = None
        self.not_ready_reason = "no steps observed yet"

    @property
    def buckets(self) -> BatchBuckets:
        """The batch buckets this model prices."""
        return self._buckets

    def observe(self, step: StepObservation) -> float | None:
        """Learn one step. Returns the relative error of the prediction made before seeing it."""
        self._clock += 1
        length_index = self._index[step.num_steps]
        bucket_index = self._buckets.index(step.batch_size)
        if step.changed_length:
            self.changed_steps_total += 1
            little = self._counts.get((length_index, bucket_index), 0) < CHANGED_SAMPLES
            if step.previous_num_steps < 0 or not little:
                return None
        paid_size = self._buckets.paid_size(step.batch_size)
        error = self._error(step, length_index, bucket_index, paid_size)
        self._samples.add(
            length_index=length_index,
            bucket_index=bucket_index,
            paid_size=paid_size,
            context_tokens=step.context_tokens,
            seconds=step.duration_s,
            now=self._clock,
        )
        self._seen_by_length[step.num_steps] = self._seen_by_length.get(step.num_steps, 0) + 1
        cell = (length_index, bucket_index)
        self._counts[cell] = self._counts.get(cell, 0) + 1
        return error

    def refit(self) -> None:
        """Fit all kept samples; sets `fit`, or `not_ready_reason` where that is not possible."""
        self.fit = None
        if len(self._seen_by_length) < MIN_LENGTHS:
            seen = sorted(self._seen_by_length)
            self.not_ready_reason = (
                f"steady steps seen of lengths {seen}; at least {MIN_LENGTHS} lengths needed"
            )
            return
        if len(self._samples) < MIN_SAMPLES:
            self.not_ready_reason = f"{len(self._samples)} steady steps seen; at least {MIN_SAMPLES} needed"
            return
        fit = fit_step_times(
            self._samples.arrays(self._clock),
            np.array(self._lengths, dtype=np.float64),
            np.array(self._buckets.sizes, dtype=np.float64),
            self._clock,
        )
        if fit is None:
            self.not_ready_reason = "the fit prices a step at next to nothing"
        elif fit.spread > MAX_SPREAD:
            self.not_ready_reason = f"steps scatter by {fit.spread:.0%} about the fit"
        else:
            self.fit = fit
            self.not_ready_reason = ""

    def cells(self) -> tuple[CellEstimate, ...]:
        """Every visited cell for an operator; empty while no fit is ready."""
        if self.fit is None:
            return ()
        return tuple(self._cell(self.fit, *cell) for cell in sorted(self._counts))

    def _cell(self, fit: StepTimeFit, length_index: int, bucket_index: int) -> CellEstimate:
        size = float(self._buckets.sizes[bucket_index])
        center = float(fit.context_center[bucket_index, length_index])
        here, more = (
            fit.step_seconds(bucket_index, length_index, size, context) for context in (center, center * 1.1)
        )
        slope = max((more - here) / (0.1 * center), 0.0)
        errors = self._errors.get((length_index, bucket_index))
        return CellEstimate(
            num_steps=self._lengths[length_index],
            batch_size=self._buckets.sizes[bucket_index],
            samples=self._counts[(length_index, bucket_index)],
            intercept_s=here - slope * center,
            context_slope_s_per_token=slope,
            error_ratio=median(errors) if errors else float("nan"),
        )

    def _error(
        self, step: StepObservation, length_index: int, bucket_index: int, paid_size: int
    ) -> float | None:
        if self.fit is None:
            return None
        predicted = self.fit.step_seconds(bucket_index, length_index, paid_size, step.context_tokens)
        error = abs(step.duration_s / predicted - 1.0)
        kept = self._errors.setdefault((length_index, bucket_index), deque(maxlen=ERRORS_KEPT))
        kept.append(error)
        return error
