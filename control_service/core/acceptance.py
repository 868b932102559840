"""How many drafts are accepted: conditional rates by position, censored, with forgetting.

A request that proposed k drafts and had m of them accepted says: positions 1..m
accepted, position m+1 rejected if m < k, and nothing about positions beyond
min(m+1, k). Accepted / proposed is not used anywhere: it depends on the length.

The first position is told apart by what came before. Accepted runs go on: a step that
follows one with every draft accepted starts inside such a run, and shorter lengths start
inside runs more often. One rate for both would credit to the length what is due to the
text, and underrate short lengths by what was learned at long ones. How often
a step starts inside a run follows from the length itself, as the stationary share of a
two-state chain; so acceptance learned at one length holds for the others.

Two Beta counters a rate: a slow one that gives the estimate, and a fast one
that replaces it when the two disagree beyond chance, so that a steady load is
estimated tightly and a change of load is followed within tens of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
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
CHANGE_Z = 3.5
CHANGE_MIN_COUNT = 5.0
# After a change little is believed, so that what comes next counts.
CHANGE_KEPT_COUNT = 16.0
FIRST_POSITION_PRIOR = 0.6
FIRST_POSITION_STRENGTH = 2.0
# Later positions lean on the rate just before them.
NEXT_POSITION_STRENGTH = 4.0
# How runs go on is much the same everywhere: the factor on it is believed to be near 1.
INSIDE_STRENGTH = 30.0
RATE_MAX = 0.995


class AcceptanceTable(NamedTuple):
    """Estimates frozen at a refit; L is the largest length.

    rate: [L + 1] conditional acceptance of position j + 1, the first position's after a rejection;
    last, how much more a step accepts inside a run than `_inside_rate` says by itself (a factor).
    variance: [L + 1] of those. tokens: [L + 1] expected tokens a request and step when running each
    length. gradient: [L + 1, L + 1] d tokens / d rate.
    """

    rate: FloatArray
    variance: FloatArray
    tokens: FloatArray
    gradient: FloatArray

    def standard_error(self, num_steps: int) -> float:
        """Standard error of tokens[num_steps] (delta method, rates independent)."""
        return math.sqrt(float(self.gradient[num_steps] ** 2 @ self.variance))

    def first_rate(self, num_steps: int, *, after_full_accept: bool) -> float:
        """Acceptance of the first position when running `num_steps`, 1 at least."""
        if not after_full_accept:
            return float(self.rate[0])
        return _bounded(float(self.rate[-1]) * _inside_rate(self.rate[:-1].tolist(), num_steps)[0])


class AcceptanceModel:
    """Learns from steps; `table()` freezes what is known."""

    def __init__(self, length_max: int) -> None:
        self._length_max = length_max
        self._clock = 0
        # By position, and last the first position after a full accept.
        self._seen_at = [0] * (length_max + 1)
        self._slow = [[0.0, 0.0] for _ in range(length_max + 1)]
        self._fast = [[0.0, 0.0] for _ in range(length_max + 1)]
        # By length: how many of the last counts came from steps of that length.
        self._inside_by_length = [0.0] * (length_max + 1)

    @property
    def observed_positions(self) -> int:
        """How many leading positions have ever been observed."""
        for position, (accepted, rejected) in enumerate(self._slow[:-1]):
            if accepted + rejected == 0.0:
                return position
        return self._length_max

    def observe(
        self, num_steps: int, accepted_drafts: Sequence[int], after_full_accept: Sequence[bool] = ()
    ) -> None:
        """Learn one step: `num_steps` were proposed to every request, these many were accepted.

        after_full_accept: for which requests the step before had accepted all; empty for none.
        """
        self._clock += 1
        if not accepted_drafts or num_steps == 0:
            return
        drafted, rejected = len(accepted_drafts), accepted_drafts.count(0)
        if True in after_full_accept:
            inside = tuple(compress(accepted_drafts, after_full_accept))
            missed = inside.count(0)
            keep = self._count(self._length_max, len(inside) - missed, missed)
            self._inside_by_length = [count * keep for count in self._inside_by_length]
            self._inside_by_length[num_steps] += len(inside)
            self._count(0, drafted - len(inside) - (rejected - missed), rejected - missed)
        else:
            self._count(0, drafted - rejected, rejected)
        alive = drafted - rejected
        for position in range(1, num_steps):
            if alive == 0:
                break
            rejected = accepted_drafts.count(position)
            alive -= rejected
            self._count(position, alive, rejected)

    def table(self) -> AcceptanceTable:
        """Estimates of every rate, unobserved ones extrapolated."""
        size = self._length_max
        if size == 0:
            return AcceptanceTable(np.ones(1), np.zeros(1), np.ones(1), np.zeros((1, 1)))
        rate, variance = np.empty(size + 1), np.empty(size + 1)
        prior, strength = FIRST_POSITION_PRIOR, FIRST_POSITION_STRENGTH
        for place in range(size):
            rate[place], variance[place] = _posterior(self._slow[place], prior, strength)
            if place == 0:
                prior, strength = self._second_position_prior(float(rate[0]))
            else:
                prior, strength = float(rate[place]), NEXT_POSITION_STRENGTH
        expected = self._inside_expected(rate[:size].tolist())
        inside, inside_variance = _posterior(self._slow[size], expected, INSIDE_STRENGTH)
        rate[size], variance[size] = inside / expected, inside_variance / expected**2
        return _table(rate, variance)

    def positions(self) -> tuple[PositionEstimate, ...]:
        """Counts and estimates for an operator: by position, and last the first one after a full accept."""
        if self._length_max == 0:
            return ()
        table = self.table()
        expected = self._inside_expected(table.rate[:-1].tolist())
        scale = [1.0] * self._length_max + [expected]
        return tuple(
            PositionEstimate(
                position=index % self._length_max + 1,
                after_full_accept=index == self._length_max,
                accepted=counts[0],
                rejected=counts[1],
                probability=min(float(table.rate[index]) * scale[index], 1.0),
                standard_error=math.sqrt(float(table.variance[index])) * scale[index],
            )
            for index, counts in enumerate(self._slow)
        )

    def _second_position_prior(self, first: float) -> tuple[float, float]:
        """What is believed of the second position before it is observed: mean and strength.

        Where drafts are accepted at all they tend to go on being accepted; and what follows a full
        accept tells how well runs go on, even at length 1, which never tries a second position.
        """
        accepted, rejected = self._slow[self._length_max]
        seen = accepted + rejected
        belief, weight = (first + FIRST_POSITION_PRIOR) / 2.0, NEXT_POSITION_STRENGTH / 2.0
        if seen == 0.0:
            return belief, weight
        # The root of x * x + (1 - x) * first = rate inside a run: `_inside_rate` with like positions.
        inside = max(accepted / seen - first, 0.0)
        implied = min((first + math.sqrt(first * first + 4.0 * inside)) / 2.0, RATE_MAX)
        told = INSIDE_STRENGTH / 4.0 * seen / (seen + INSIDE_STRENGTH)
        return (weight * belief + told * implied) / (weight + told), weight + told

    def _inside_expected(self, rates: list[float]) -> float:
        """What `_inside_rate` says of the steps that were counted, by their lengths."""
        total = sum(self._inside_by_length)
        if total == 0.0:
            return _inside_rate(rates, self._length_max)[0]
        return (
            sum(
                count * _inside_rate(rates, length)[0]
                for length, count in enumerate(self._inside_by_length)
                if count
            )
            / total
        )

    def _count(self, place: int, accepted: int, rejected: int) -> float:
        """Count outcomes of one rate; returns the share of the counts before them that was kept."""
        if accepted + rejected == 0:
            return 1.0
        elapsed = self._clock - self._seen_at[place]
        self._seen_at[place] = self._clock
        slow, fast = self._slow[place], self._fast[place]
        keep = _forget(slow, math.exp(-elapsed / SLOW_WINDOW_STEPS), KEPT_COUNT)
        _forget(fast, math.exp(-elapsed / FAST_WINDOW_STEPS), 0.0)
        for counts in (slow, fast):
            counts[0] += accepted
            counts[1] += rejected
        if _disagree(slow, fast):
            _forget(fast, 0.0, CHANGE_KEPT_COUNT)
            slow[0], slow[1] = fast[0], fast[1]
        return keep


def _posterior(counts: list[float], prior: float, strength: float) -> tuple[float, float]:
    """Mean and variance of a rate."""
    total = counts[0] + counts[1] + strength
    mean = (counts[0] + strength * prior) / total
    return mean, OVERDISPERSION * mean * (1.0 - mean) / (total + 1.0)


def _forget(counts: list[float], factor: float, kept: float) -> float:
    total = counts[0] + counts[1]
    if total <= kept:
        return 1.0
    factor = max(factor, kept / total)
    counts[0] *= factor
    counts[1] *= factor
    return factor


def _disagree(slow: list[float], fast: list[float]) -> bool:
    count = fast[0] + fast[1]
    if count < CHANGE_MIN_COUNT:
        return False
    # What came before: the slow counter has the same steps in it.
    accepted = max(slow[0] - fast[0], 0.0)
    total = accepted + max(slow[1] - fast[1], 0.0)
    if total < CHANGE_MIN_COUNT:
        return False
    rate = (accepted + 1.0) / (total + 2.0)
    spread = math.sqrt(OVERDISPERSION * rate * (1.0 - rate) * (1.0 / count + 1.0 / total))
    return abs(fast[0] / count - rate) > CHANGE_Z * spread


def _inside_rate(rates: list[float], num_steps: int) -> tuple[float, int, int]:
    """First position's acceptance after a full accept of `num_steps`, if runs were all there is.

    The token that follows the accepted drafts was not drafted. Had it been, it would have been
    accepted with the next position's rate, and the step goes on with the one after that; else it
    starts afresh. Returns the rate and the indices of those two rates.
    """
    last = len(rates) - 1
    bonus, after = min(num_steps, last), min(num_steps + 1, last)
    return rates[bonus] * rates[after] + (1.0 - rates[bonus]) * rates[0], bonus, after


def _bounded(rate: float) -> float:
    return min(rate, RATE_MAX)


def _table(rate: FloatArray, variance: FloatArray) -> AcceptanceTable:
    """Tokens of every length, and their derivatives.

    With c and h the first position's rates after a rejection and after a full accept, and for
    length k: G the product and T one plus the sum of products of the later positions' rates,
    a step accepts all with probability cG or hG. The chain spends the share s = cG / (1 - hG + cG)
    of its steps after a full accept, so tokens = 1 + T (c + s (h - c)). Rates are positive by their priors.
    """
    size = len(rate) - 1
    rates, factor = rate[:size].tolist(), float(rate[size])
    fresh = rates[0]
    tokens, gradient = np.ones(size + 1), np.zeros((size + 1, size + 1))
    products = np.cumprod(rate[1:size])
    for length in range(1, size + 1):
        alone, bonus, after = _inside_rate(rates, length)
        inside = _bounded(factor * alone)
        reach = products[: length - 1]
        everything = float(reach[-1]) if length > 1 else 1.0
        tail = 1.0 + float(reach.sum())
        scale = 1.0 + (fresh - inside) * everything
        share = fresh * everything / scale
        lead = inside - fresh
        first = fresh + share * lead
        tokens[length] = 1.0 + tail * first
        row = gradient[length]
        row[0] = tail * (1.0 - share + lead * everything * (1.0 - inside * everything) / scale**2)
        # d T / d rate[j] = sum of the products that contain it, over it; d G / d rate[j] = G / rate[j].
        contained = np.cumsum(reach[::-1])[::-1]
        row[1:length] = (first * contained + tail * lead * fresh * everything / scale**2) / rate[1:length]
        by_inside = tail * (share + lead * fresh * everything**2 / scale**2)
        if inside < RATE_MAX:
            row[size] += by_inside * alone
            row[bonus] += by_inside * factor * (rates[after] - fresh)
            row[after] += by_inside * factor * rates[bonus]
            row[0] += by_inside * factor * (1.0 - rates[bonus])
    # A longer draft never commits less; two rates that are far apart may make the chain say so.
    return AcceptanceTable(rate, variance, np.maximum.accumulate(tokens), gradient)
