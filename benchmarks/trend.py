"""Whether something grows: slopes, with standard errors that know that neighbours resemble each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Beyond a bound by so many errors counts as beyond it: of memory that does not grow, one in fifty times, and
# one in ten where it moves in steps that last for minutes.
SIGNIFICANT_ERRORS = 2.0
SAMPLES_MIN = 8


class Slope(NamedTuple):
    """Units of the values per unit of time."""

    value: float
    standard_error: float

    @property
    def low(self) -> float:
        """What the slope is at least, as far as the noise allows to say."""
        return self.value - SIGNIFICANT_ERRORS * self.standard_error

    def exceeds(self, bound: float) -> bool:
        """Whether the slope is above the bound by more than its noise."""
        return self.low > bound


def slope_of(times: Sequence[float], values: Sequence[float]) -> Slope:
    """Least squares; the standard error is Newey and West's (1987) with Bartlett weights.

    Memory moves in steps and holds them, so that residuals of neighbouring samples are alike, and the
    usual standard error far too small.

    Raises:
        ValueError: too few samples, or all at one time.

    >>> slope_of(range(10), [2.0 * at for at in range(10)]).value
    2.0
    """
    count = len(times)
    if count < SAMPLES_MIN or len(values) != count:
        raise ValueError(
            f"samples={count} times, {len(values)} values: must be as many, at least {SAMPLES_MIN}"
        )
    centred = np.asarray(times, dtype=float) - np.mean(times)
    spread = float(centred @ centred)
    if spread == 0.0:
        raise ValueError(f"times={times[0]} for every sample: must differ")
    y = np.asarray(values, dtype=float)
    value = float(centred @ y) / spread
    scores = centred * (y - y.mean() - value * centred)
    variance = float(scores @ scores)
    lags = _lags(count)
    for lag in range(1, lags + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1)) * float(scores[lag:] @ scores[:-lag])
    return Slope(value, math.sqrt(max(variance, 0.0) * count / (count - 2)) / spread)


def _lags(count: int) -> int:
    """Samples apart that may still resemble each other: a sixth of the run, for steps that are held long."""
    return max(1, count // 6)
