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

A change of load moves all rates together. Where what came lately departs from what came before
beyond chance, at one rate or over all of them, every rate begins anew from what came lately: a steady
load is estimated tightly, a change is followed within tens of steps, and what was believed of
positions that the old load hardly reached does not outlive it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from control_service.core.rate_counter import SLOW_WINDOW_STEPS, RateCounter
from control_service.core.types import PositionEstimate

FloatArray = npt.NDArray[np.float64]

# So many standard errors are beyond chance.
CHANGE_Z = 3.5
# What follows a rejection depends the most on whose requests they are, and those whose drafts fail bring
# most of its counts: once they have left they must not speak for long for those that stay.
FRESH_WINDOW_STEPS = 220.0
FIRST_POSITION_PRIOR = 0.6
FIRST_POSITION_STRENGTH = 2.0
# Later positions lean on the rate just before them, and on how runs go on.
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
        self._positions = tuple(
            RateCounter(SLOW_WINDOW_STEPS if place else FRESH_WINDOW_STEPS) for place in range(length_max)
        )
        # The first position after a full accept.
        self._inside = RateCounter()
        # By length: how many of the last counts of `_inside` came from steps of that length.
        self._inside_by_length = [0.0] * (length_max + 1)
        self.changes_total = 0

    @property
    def rates(self) -> tuple[RateCounter, ...]:
        """By position, and last the first position after a full accept."""
        return (*self._positions, self._inside)

    @property
    def observed_positions(self) -> int:
        """How many leading positions have ever been observed."""
        for position, rate in enumerate(self._positions):
            if not rate.observed:
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
            for rate in self.rates:
                rate.skip()
            return
        for rate in self._positions[num_steps:]:
            rate.skip()
        first, *later = self._positions[:num_steps]
        counted = [first]
        # A value is counted in bytes in a fraction of the time that it takes in a tuple.
        ran = bytes(accepted_drafts)
        drafted, rejected = len(ran), ran.count(0)
        inside_drafted = inside_rejected = 0
        if True in after_full_accept:
            inside = bytes(compress(ran, after_full_accept))
            inside_drafted, inside_rejected = len(inside), inside.count(0)
            keep = self._inside.count(self._clock, inside_drafted - inside_rejected, inside_rejected)
            self._keep_inside_by_length(keep)
            self._inside_by_length[num_steps] += inside_drafted
            counted.append(self._inside)
        alive = drafted - rejected
        first.count(self._clock, alive - (inside_drafted - inside_rejected), rejected - inside_rejected)
        for position, rate in enumerate(later, start=1):
            if alive == 0:
                break
            rejected = ran.count(position)
            alive -= rejected
            rate.count(self._clock, alive, rejected)
            counted.append(rate)
        if _is_beyond_chance([rate.departure() for rate in counted]):
            self._begin_anew()

    def table(self) -> AcceptanceTable:
        """Estimates of every rate, unobserved ones extrapolated."""
        size = self._length_max
        if size == 0:
            return AcceptanceTable(np.ones(1), np.zeros(1), np.ones(1), np.zeros((1, 1)))
        rate, variance = np.empty(size + 1), np.empty(size + 1)
        rates: list[float] = []
        for place, counter in enumerate(self._positions):
            prior, strength = self._next_prior(rates)
            rate[place], variance[place] = counter.posterior(prior, strength)
            rates.append(float(rate[place]))
        expected = self._inside_expected(rates)
        inside, inside_variance = self._inside.posterior(expected, INSIDE_STRENGTH)
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
                accepted=accepted,
                rejected=rejected,
                probability=min(float(table.rate[index]) * scale[index], 1.0),
                standard_error=math.sqrt(float(table.variance[index])) * scale[index],
            )
            for index, (accepted, rejected) in enumerate(rate.believed() for rate in self.rates)
        )

    def _next_prior(self, rates: list[float]) -> tuple[float, float]:
        """What is believed of the position after these rates before it is observed: mean and strength.

        Where drafts are accepted they tend to go on being accepted; and what follows a full accept tells
        how well runs go on, behind the longest length that was run too.
        """
        if not rates:
            return FIRST_POSITION_PRIOR, FIRST_POSITION_STRENGTH
        first = rates[0]
        belief, weight = rates[-1], NEXT_POSITION_STRENGTH
        if len(rates) == 1:
            belief, weight = (first + FIRST_POSITION_PRIOR) / 2.0, NEXT_POSITION_STRENGTH / 2.0
        accepted, rejected = self._inside.counts()
        seen = accepted + rejected
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

    def _begin_anew(self) -> None:
        self.changes_total += 1
        for rate in self._positions:
            rate.begin_anew(self._clock)
        self._keep_inside_by_length(self._inside.begin_anew(self._clock))

    def _keep_inside_by_length(self, share: float) -> None:
        self._inside_by_length = [count * share for count in self._inside_by_length]


def _is_beyond_chance(departures: list[float]) -> bool:
    """Whether rates have moved: one of them by itself, or all of them together."""
    together = abs(sum(departures)) / math.sqrt(len(departures))
    return max(together, *map(abs, departures)) > CHANGE_Z


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
