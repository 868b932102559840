"""The middle of what was measured, and how far it can be trusted. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

# Of 95 % confidence, two-sided.
CONFIDENCE_Z = 1.96
TAIL = 0.975


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some rounds, and where the true one lies with 95 % confidence."""

    middle: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The median of rounds of the same servers; None if there are no values.

        The interval runs between two of the values, by their ranks (binomial distribution): whatever
        the shape of the noise. Of fewer than six values it is the extremes.

        >>> Spread.of(range(30))
        Spread(middle=14.5, low=9, high=20, count=30)
        """
        kept = sorted(values)
        if not kept:
            return None
        outside = max(0, int((len(kept) - CONFIDENCE_Z * math.sqrt(len(kept))) / 2))
        return cls(statistics.median(kept), kept[outside], kept[-1 - outside], len(kept))

    @classmethod
    def of_starts(cls, values: Sequence[float]) -> Spread | None:
        """The mean over starts; None if there are fewer than two.

        values: of each start, its rounds taken together. What a process is dealt by its start it keeps for
        life: rounds cannot average that out, only starts can. So each start counts as one observation, and
        the interval is Student's t over them.

        >>> spread = Spread.of_starts([1.0, 1.2, 1.1])
        >>> f"{spread.middle:.3f} [{spread.low:.3f}..{spread.high:.3f}] of {spread.count}"
        '1.100 [0.852..1.348] of 3'
        """
        if len(values) < 2:
            return None
        return cls.about(statistics.fmean(values), values)

    @classmethod
    def about(cls, middle: float, values: Sequence[float]) -> Spread:
        """Of the whole, whose parts have these values: the interval is Student's t over the parts."""
        reach = math.inf
        if len(values) > 1:
            reach = float(stdtrit(len(values) - 1, TAIL)) * statistics.stdev(values) / math.sqrt(len(values))
        return cls(middle, middle - reach, middle + reach, len(values))


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Linear between the two nearest ranks; None if there are no values.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50)
    2.5
    """
    ranked = sorted(values)
    if not ranked:
        return None
    place = (len(ranked) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def over_cells(ratios: Sequence[Spread | None]) -> Spread | None:
    """The geometric mean of the cells' ratios, each cell an observation; None if fewer than two have one.

    >>> spread = over_cells([Spread(0.5, 0.4, 0.6, 10), None, Spread(2.0, 1.9, 2.1, 10)])
    >>> spread.middle, spread.count
    (1.0, 2)
    """
    spread = Spread.of_starts([math.log(ratio.middle) for ratio in ratios if ratio])
    if spread is None:
        return None
    return Spread(math.exp(spread.middle), math.exp(spread.low), math.exp(spread.high), spread.count)
