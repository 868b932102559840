"""Fits step times: one shared backbone, and a correction for every cell that was visited.

A cell is a (length, batch bucket). The backbone is a non-negative combination of
features that every step has, so it prices cells that were never run from those
that were; a cell's own samples pull its price away from the backbone as far as
their number and scatter justify (empirical Bayes, two levels: bucket, then cell).
All errors are relative: a factor common to all lengths cancels in the choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from control_service.core.machine_speed import Looks
from control_service.core.samples import SampleArrays

FloatArray = npt.NDArray[np.float64]

FEATURES = (
    "constant",
    "speculating",
    "request",
    "length",
    "request_length",
    "context_token",
    "speculating_context_token",
)
# Where the data cannot tell features apart (one batch size seen), prefer constants: forward
# passes are memory bound far more often than not.
RIDGE = np.array([1.0, 1.0, 4.0, 1.0, 4.0, 4.0, 4.0]) * 1e-3
# A sample this old counts half: machines drift, neighbours come and go.
AGE_HALF_LIFE_STEPS = 1_500.0
AGE_WEIGHT_MIN = 0.02
HUBER_SPREADS = 1.5
# A fit that prices the smallest step below this share of the median one is not physical.
LEAST_SHARE = 0.01
IRLS_ROUNDS = 2
# The second time without what the machine's speed did to the samples of the first.
ROUNDS = 2
SPREAD_MIN = 0.01
# How far cells stray from the backbone, as a ratio: bounds of the estimate.
STRAY_MIN, STRAY_MAX, STRAY_START = 0.04, 0.30, 0.10
CONTEXT_STRAY = 0.05
# No correction may price a step below this share of the backbone.
FACTOR_MIN = 0.1
# Neighbouring steps share more than their block's speed, so n samples are worth fewer.
NOISE_INFLATION = 1.5
# The first steps of a cell may cost more than those to come (memory, kernels, caches that nobody used yet):
# so far may a single sample be off, as a ratio, and half as far with each one more.
FIRST_USE_STRAY = 0.15


class StepTimeFit(NamedTuple):
    """A frozen fit. K lengths, M buckets.

    length_terms: [K] seconds that depend on the length alone; request_terms, context_terms:
    [K] seconds a paid request, a context token. correction: [M, K] relative correction of
    the backbone at `context_center` [M, K]; context_correction: [M, K] its change per
    relative change of context. variance: [M, K] of the predicted time, relative.
    weight: [M, K] effective samples. coefficients: by feature name.
    spread: relative scatter of one step.
    """

    length_terms: FloatArray
    request_terms: FloatArray
    context_terms: FloatArray
    correction: FloatArray
    context_correction: FloatArray
    context_center: FloatArray
    variance: FloatArray
    weight: FloatArray
    coefficients: dict[str, float]
    spread: float

    def step_seconds(
        self, bucket_index: int, length_index: int, paid_size: float, context_tokens: float
    ) -> float:
        """Predicted seconds of one length; the same as `seconds`, without arrays."""
        base = (
            self.length_terms.item(length_index)
            + self.request_terms.item(length_index) * paid_size
            + self.context_terms.item(length_index) * context_tokens
        )
        cell = (bucket_index, length_index)
        relative = min(max(context_tokens / self.context_center.item(cell) - 1.0, -1.0), 1.0)
        factor = 1.0 + self.correction.item(cell) + self.context_correction.item(cell) * relative
        return base * max(factor, FACTOR_MIN)

    def seconds(self, bucket_index: int, paid_size: float, context_tokens: float) -> FloatArray:
        """[K] predicted seconds of one step."""
        base = self.length_terms + self.request_terms * paid_size + self.context_terms * context_tokens
        relative = np.clip(context_tokens / self.context_center[bucket_index] - 1.0, -1.0, 1.0)
        factor = 1.0 + self.correction[bucket_index] + self.context_correction[bucket_index] * relative
        return np.asarray(base * np.maximum(factor, FACTOR_MIN))


def fit_step_times(
    samples: SampleArrays, lengths: FloatArray, sizes: FloatArray, now_steps: int
) -> StepTimeFit | None:
    """Fit all samples; lengths [K], sizes [M] upper bounds of the buckets; now_steps: steps observed so far.

    None if the result is not physical (a step priced at next to nothing).
    """
    length = lengths[samples.length_index]
    cell = samples.bucket_index * len(lengths) + samples.length_index
    shape = (len(sizes), len(lengths))
    cell_count = shape[0] * shape[1]
    age_weight = np.maximum(np.exp2(-samples.age_steps / AGE_HALF_LIFE_STEPS), AGE_WEIGHT_MIN)
    features = _features(length, samples.paid_size, samples.context_tokens)
    looks = Looks(age_weight, now_steps - samples.age_steps, cell, cell_count)
    slowness = np.zeros(len(length))
    for _ in range(ROUNDS):
        seconds = samples.seconds / (1.0 + slowness)
        coefficients = _backbone(features, seconds, age_weight, cell, cell_count)
        predicted = features @ coefficients
        if not np.all(np.isfinite(predicted)) or not np.all(predicted > 0.0):
            return None
        cells = _cells(samples, seconds / predicted - 1.0, age_weight, cell, cell_count)
        error = samples.seconds / predicted - 1.0
        speed = looks.separate(error, cells.robust, SPREAD_MIN)
        slowness = speed.slowness
    speculating = (lengths > 0).astype(np.float64)
    constant, fixed, request, step, request_step, context, fixed_context = coefficients
    center = np.where(cells.weight > 0.0, cells.center, 1.0).reshape(shape)
    fit = StepTimeFit(
        length_terms=constant + fixed * speculating + step * lengths,
        request_terms=request + request_step * lengths,
        context_terms=context + fixed_context * speculating,
        correction=np.zeros(shape),
        context_correction=np.zeros(shape),
        context_center=center,
        variance=np.zeros(shape),
        weight=cells.weight.reshape(shape),
        coefficients=dict(zip(FEATURES, coefficients.tolist(), strict=True)),
        spread=cells.spread,
    )
    # One request without context still costs something, whatever its length.
    least = fit.length_terms + fit.request_terms
    if float(least.min()) < LEAST_SHARE * _median(samples.seconds):
        return None
    slope = cells.slope.reshape(shape)
    return _shrink(fit, speed.mean.reshape(shape), speed.variance.reshape(shape), slope, sizes)


class _Cells(NamedTuple):
    weight: FloatArray
    slope: FloatArray
    center: FloatArray
    spread: float
    robust: FloatArray


def _features(length: FloatArray, paid_size: FloatArray, context_tokens: FloatArray) -> FloatArray:
    speculating = (length > 0).astype(np.float64)
    return np.stack(
        [
            np.ones_like(length),
            speculating,
            paid_size,
            length,
            paid_size * length,
            context_tokens,
            context_tokens * speculating,
        ],
        axis=1,
    )


def _backbone(
    features: FloatArray,
    seconds: FloatArray,
    age_weight: FloatArray,
    cell: npt.NDArray[np.int64],
    cell_count: int,
) -> FloatArray:
    """Non-negative coefficients that minimise Huber's loss of the relative error."""
    # A cell counts by the root of its samples: many of one must not outvote the others.
    in_cell = np.bincount(cell, age_weight, cell_count)
    weight = age_weight / np.sqrt(in_cell[cell])
    relative = features / seconds[:, None]
    scale = np.maximum(np.sqrt(np.mean(relative**2, axis=0)), 1e-12)
    relative = relative / scale
    robust = np.ones_like(seconds)
    coefficients = np.zeros(features.shape[1])
    for _ in range(IRLS_ROUNDS):
        total = weight * robust
        total = total / total.sum()
        gram = relative.T @ (relative * total[:, None]) + np.diag(RIDGE)
        target = relative.T @ total
        root = np.linalg.cholesky(gram)
        coefficients = nnls(root.T, np.linalg.solve(root, target))[0]
        residual = 1.0 - relative @ coefficients
        robust = _huber(residual - _median(residual))
    return np.asarray(coefficients / scale)


def _cells(
    samples: SampleArrays,
    error: FloatArray,
    age_weight: FloatArray,
    cell: npt.NDArray[np.int64],
    cell_count: int,
) -> _Cells:
    """Robust weights of the samples, and the context slope of every cell."""
    # An outlier must not drag the start: errors are bounded before the first mean.
    middle = _median(error)
    weight = age_weight * _huber(error - middle)
    residual = error
    robust = np.ones_like(error)
    for _ in range(IRLS_ROUNDS):
        total = np.maximum(np.bincount(cell, weight, cell_count), 1e-12)
        mean = np.bincount(cell, weight * error, cell_count) / total
        residual = error - mean[cell]
        robust = _huber(residual)
        weight = age_weight * robust
    spread = max(float(1.4826 * _median(np.abs(residual))), SPREAD_MIN)
    total = np.asarray(np.bincount(cell, weight, cell_count), dtype=np.float64)
    safe = np.maximum(total, 1e-12)
    center = np.maximum(np.bincount(cell, weight * samples.context_tokens, cell_count) / safe, 1.0)
    relative = samples.context_tokens / center[cell] - 1.0
    curvature = np.bincount(cell, weight * relative**2, cell_count) + (spread / CONTEXT_STRAY) ** 2
    slope = np.bincount(cell, weight * relative * residual, cell_count) / curvature
    return _Cells(total, slope, center, spread, robust)


def _shrink(
    fit: StepTimeFit, mean: FloatArray, variance: FloatArray, slope: FloatArray, sizes: FloatArray
) -> StepTimeFit:
    """Pull every cell toward its bucket and every bucket toward the backbone.

    mean, variance, slope: [M, K] relative error of the backbone, variance of that mean, change with context.
    """
    weight, noise = fit.weight, NOISE_INFLATION * variance
    visited = weight > 0.0
    trust = np.where(visited, weight / (weight + 4.0), 0.0)
    bucket_trust = trust.sum(axis=1, keepdims=True)
    bucket = (trust * mean).sum(axis=1, keepdims=True) / (bucket_trust + 1.0)
    stray = _stray(mean - bucket, noise, weight, visited)
    # Cells stray from a backbone that was fitted to them less than those that it never saw ...
    unseen = np.where(visited, stray, max(stray, STRAY_START))
    # ... and an unvisited bucket strays more, the farther from visited ones.
    reach = 1.0 + _distance(np.asarray(visited.any(axis=1)))[:, None]
    prior_precision = 1.0 / (unseen * reach) ** 2
    first_use = (FIRST_USE_STRAY * np.exp2(1.0 - np.maximum(weight, 1.0))) ** 2
    evidence = np.where(visited, 1.0 / (noise + first_use), 0.0)
    precision = prior_precision + evidence
    pull = evidence / precision
    correction = np.where(visited, bucket + pull * (mean - bucket), bucket)
    # The price must not fall as context grows, up to the twice of the centre where the slope ends.
    by_context = fit.context_terms[None, :] * fit.context_center
    rest = fit.length_terms[None, :] + fit.request_terms[None, :] * sizes[:, None]
    lowest = -(1.0 + correction) * by_context / np.maximum(3.0 * by_context + rest, 1e-12)
    slope = np.where(visited, np.maximum(slope, lowest), 0.0)
    return fit._replace(correction=correction, context_correction=slope, variance=1.0 / precision)


def _stray(
    deviation: FloatArray, noise: FloatArray, weight: FloatArray, visited: npt.NDArray[np.bool_]
) -> float:
    """Scatter of cells about their bucket beyond what sampling explains (method of moments)."""
    solid = visited & (weight >= 2.0)
    count = int(solid.sum())
    if count < 3:
        return STRAY_START
    excess = float(np.mean(deviation[solid] ** 2 - noise[solid]))
    pooled = (max(excess, 0.0) * count + 3.0 * STRAY_START**2) / (count + 3.0)
    return float(np.clip(np.sqrt(pooled), STRAY_MIN, STRAY_MAX))


def _distance(visited: npt.NDArray[np.bool_]) -> FloatArray:
    """Steps from each bucket to the nearest visited one."""
    places = np.flatnonzero(visited)
    gaps = np.abs(np.arange(len(visited))[:, None] - places[None, :])
    return np.asarray(gaps.min(axis=1), dtype=np.float64)


def _median(values: FloatArray) -> float:
    """The upper median; a fifth of the time of numpy's, which is most of a refit's."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


def _huber(residual: FloatArray) -> FloatArray:
    spread = max(float(1.4826 * _median(np.abs(residual))), SPREAD_MIN)
    return np.minimum(1.0, HUBER_SPREADS * spread / np.maximum(np.abs(residual), 1e-12))
