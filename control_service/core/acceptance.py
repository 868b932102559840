"""How many drafts are accepted: conditional rates by position, censored, with forgetting.

A request that proposed k drafts and had m of them accepted says: positions 1..m
accepted, position m+1 rejected if m < k, and nothing about positions beyond
min(m+1, k). Accepted / proposed is not used anywhere: it depends on the length.

Two Beta counters a position: a slow one that gives the estimate, and a fast one
that replaces it when the two disagree beyond chance, so that a steady load is
estimated tightly and a change of load is followed within tens of steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from control_service.core.types import PositionEstimate

FloatArray = npt.NDArray[np.float64]

SLOW_WINDOW_STEPS = 1_000.0
FAST_WINDOW_STEPS = 40.0
# A position not observed for long keeps its rate but not its certainty.
KEPT_COUNT = 12.0
# Requests of one batch and neighbouring steps are alike, so counts overstate what is known.
OVERDISPERSION = 1.5
CHANGE_Z = 4.5
CHANGE_MIN_COUNT = 8.0
# After a change little is believed, so that what comes next counts.
CHANGE_KEPT_COUNT = 16.0
FIRST_POSITION_PRIOR = 0.6
FIRST_POSITION_STRENGTH = 2.0
# Later positions lean on the rate just before them.
NEXT_POSITION_STRENGTH = 4.0


class AcceptanceTable(NamedTuple):
    """Estimates frozen at a refit.

    rate, variance: [length_max] conditional acceptance of position j+1 and its variance.
    tokens: [length_max + 1] expected tokens a request and step when running that length.
    gradient: [length_max + 1, length_max] d tokens / d rate.
    """

    rate: FloatArray
    variance: FloatArray
    tokens: FloatArray
    gradient: FloatArray

    def standard_error(self, num_steps: int) -> float:
        """Standard error of tokens[num_steps] (delta method, positions independent)."""
        return math.sqrt(float(self.gradient[num_steps] ** 2 @ self.variance))


class AcceptanceModel:
    """Learns from steps; `table()` freezes what is known."""

    def __init__(self, length_max: int) -> None:
        self._length_max = length_max
        self._clock = 0
        self._seen_at = [0] * length_max
        self._slow = [[0.0, 0.0] for _ in range(length_max)]
        self._fast = [[0.0, 0.0] for _ in range(length_max)]

    @property
    def observed_positions(self) -> int:
        """How many leading positions have ever been observed."""
        for position, (accepted, rejected) in enumerate(self._slow):
            if accepted + rejected == 0.0:
                return position
        return self._length_max

    def observe(self, num_steps: int, accepted_drafts: tuple[int, ...]) -> None:
        """Learn one step: `num_steps` were proposed to every request, these many were accepted."""
        self._clock += 1
        if not accepted_drafts:
            return
        alive = len(accepted_drafts)
        for position in range(num_steps):
            if alive == 0:
                break
            kept = sum(1 for count in accepted_drafts if count > position)
            self._count(position, kept, alive - kept)
            alive = kept

    def table(self) -> AcceptanceTable:
        """Estimates of every position, unobserved ones extrapolated."""
        size = self._length_max
        rate, variance = np.empty(size), np.empty(size)
        prior, strength = FIRST_POSITION_PRIOR, FIRST_POSITION_STRENGTH
        for position, (accepted, rejected) in enumerate(self._slow):
            total = accepted + rejected + strength
            mean = (accepted + strength * prior) / total
            rate[position] = mean
            variance[position] = OVERDISPERSION * mean * (1.0 - mean) / (total + 1.0)
            prior, strength = mean, NEXT_POSITION_STRENGTH
        return _table(rate, variance)

    def positions(self) -> tuple[PositionEstimate, ...]:
        """Counts and estimates for an operator."""
        table = self.table()
        return tuple(
            PositionEstimate(
                position=index + 1,
                accepted=counts[0],
                rejected=counts[1],
                probability=float(table.rate[index]),
                standard_error=math.sqrt(float(table.variance[index])),
            )
            for index, counts in enumerate(self._slow)
        )

    def _count(self, position: int, accepted: int, rejected: int) -> None:
        elapsed = self._clock - self._seen_at[position]
        self._seen_at[position] = self._clock
        slow, fast = self._slow[position], self._fast[position]
        _forget(slow, math.exp(-elapsed / SLOW_WINDOW_STEPS), KEPT_COUNT)
        _forget(fast, math.exp(-elapsed / FAST_WINDOW_STEPS), 0.0)
        for counts in (slow, fast):
            counts[0] += accepted
            counts[1] += rejected
        if _disagree(slow, fast):
            _forget(fast, 0.0, CHANGE_KEPT_COUNT)
            slow[0], slow[1] = fast[0], fast[1]


def _forget(counts: list[float], factor: float, kept: float) -> None:
    total = counts[0] + counts[1]
    if total <= kept:
        return
    factor = max(factor, kept / total)
    counts[0] *= factor
    counts[1] *= factor


def _disagree(slow: list[float], fast: list[float]) -> bool:
    count = fast[0] + fast[1]
    if count < CHANGE_MIN_COUNT:
        return False
    total = slow[0] + slow[1]
    rate = (slow[0] + 1.0) / (total + 2.0)
    spread = math.sqrt(OVERDISPERSION * rate * (1.0 - rate) * (1.0 / count + 1.0 / total))
    return abs(fast[0] / count - rate) > CHANGE_Z * spread


def _table(rate: FloatArray, variance: FloatArray) -> AcceptanceTable:
    size = len(rate)
    survival = np.cumprod(rate)
    tokens = np.concatenate(([1.0], 1.0 + np.cumsum(survival)))
    # d tokens[k] / d rate[j] = sum_{i=j..k} survival[i] / rate[j]; rates are positive by their prior.
    gradient = np.zeros((size + 1, size))
    for length in range(1, size + 1):
        tail = np.cumsum(survival[:length][::-1])[::-1]
        gradient[length, :length] = tail / rate[:length]
    return AcceptanceTable(rate, variance, tokens, gradient)
