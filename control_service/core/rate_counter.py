"""One acceptance rate: counts that forget, and how far the newest of them are from those before.

Two Beta counters. The slow one gives the estimate; the fast one holds the last few dozen steps, and
where the two differ beyond chance its owner lets every rate begin anew from what came lately.
"""

from __future__ import annotations

import math

# How far back the estimate reaches, unless its owner says otherwise.
SLOW_WINDOW_STEPS = 500.0
# What came lately reaches back so many steps, or so many drafts where steps have few: a position that is
# seldom reached needs longer to tell anything, and a crowd that has left must not speak for those that stay.
FAST_WINDOW_STEPS = 20.0
FAST_WINDOW_DRAFTS = 40.0
# Steps that do not propose a position say nothing of it, and the text goes on: certainty wanes faster.
IDLE_WINDOW_STEPS = 250.0
# After so many of those in a row, what is seen next is compared by itself with what was known.
LATELY_IDLE_STEPS = 8
# A position not observed for long keeps its rate but not its certainty.
KEPT_COUNT = 12.0
# Requests of one batch and neighbouring steps are alike, so counts overstate what is known.
OVERDISPERSION = 1.5
DEPARTURE_MIN_COUNT = 5.0
# After a change little is believed, so that what comes next counts.
CHANGE_KEPT_COUNT = 16.0


class RateCounter:
    """Accepted and rejected drafts at one position. Steps are counted by its owner's clock.

    >>> rate = RateCounter()
    >>> for clock in range(1, 101):
    ...     _ = rate.count(clock, 3, 1)
    >>> mean, variance = rate.posterior(0.6, 2.0)
    >>> round(mean, 2), round(math.sqrt(variance), 3)
    (0.75, 0.028)
    >>> for clock in range(101, 121):
    ...     _ = rate.count(clock, 1, 3)
    >>> round(rate.departure(), 1)
    -4.1
    """

    __slots__ = (
        "_accepted",
        "_idle_steps",
        "_lately_accepted",
        "_lately_rejected",
        "_rejected",
        "_seen_at",
        "_window_steps",
    )

    def __init__(self, window_steps: float = SLOW_WINDOW_STEPS) -> None:
        """window_steps: how far back the estimate reaches."""
        self._window_steps = window_steps
        self._accepted = self._rejected = 0.0
        self._lately_accepted = self._lately_rejected = 0.0
        self._seen_at = 0
        # Steps since then that did not propose it.
        self._idle_steps = 0

    @property
    def observed(self) -> bool:
        """Whether anything is known of it."""
        return self._accepted + self._rejected > 0.0

    def skip(self) -> None:
        """A step did not propose this position."""
        self._idle_steps += 1

    def count(self, clock: int, accepted: int, rejected: int) -> float:
        """Outcomes of one step; returns the share of the counts before them that was kept."""
        if accepted + rejected == 0:
            return 1.0
        idle, self._idle_steps = self._idle_steps, 0
        elapsed, self._seen_at = clock - self._seen_at, clock
        waning = math.exp((idle - elapsed) / self._window_steps - idle / IDLE_WINDOW_STEPS)
        keep = _kept_share(self._accepted + self._rejected, waning)
        faded = min(elapsed / FAST_WINDOW_STEPS, (accepted + rejected) / FAST_WINDOW_DRAFTS)
        lately = math.exp(-faded) if idle <= LATELY_IDLE_STEPS else 0.0
        self._accepted = self._accepted * keep + accepted
        self._rejected = self._rejected * keep + rejected
        self._lately_accepted = self._lately_accepted * lately + accepted
        self._lately_rejected = self._lately_rejected * lately + rejected
        return keep

    def counts(self) -> tuple[float, float]:
        """Accepted and rejected, as far as they are still believed."""
        keep = _kept_share(self._accepted + self._rejected, math.exp(-self._idle_steps / IDLE_WINDOW_STEPS))
        return self._accepted * keep, self._rejected * keep

    def posterior(self, prior: float, strength: float) -> tuple[float, float]:
        """Mean and variance of the rate; `prior` counts like `strength` drafts."""
        accepted, rejected = self.counts()
        total = accepted + rejected + strength
        mean = (accepted + strength * prior) / total
        return mean, OVERDISPERSION * mean * (1.0 - mean) / (total + 1.0)

    def departure(self) -> float:
        """Standard errors by which the newest counts exceed those before; 0 where there are too few."""
        lately = self._lately_accepted + self._lately_rejected
        # The slow counter has the same steps in it.
        accepted = max(self._accepted - self._lately_accepted, 0.0)
        before = accepted + max(self._rejected - self._lately_rejected, 0.0)
        if min(lately, before) < DEPARTURE_MIN_COUNT:
            return 0.0
        rate = (accepted + 1.0) / (before + 2.0)
        spread = math.sqrt(OVERDISPERSION * rate * (1.0 - rate) * (1.0 / lately + 1.0 / before))
        return (self._lately_accepted / lately - rate) / spread

    def begin_anew(self, clock: int) -> float:
        """Believe only what came lately, and not much of that; returns the share of counts that is left."""
        before = self._accepted + self._rejected
        idle = self._idle_steps > LATELY_IDLE_STEPS
        lately = 0.0 if idle else math.exp((self._seen_at - clock) / FAST_WINDOW_STEPS)
        total = lately * (self._lately_accepted + self._lately_rejected)
        keep = lately * min(CHANGE_KEPT_COUNT / total, 1.0) if total > 0.0 else 0.0
        self._accepted = self._lately_accepted = self._lately_accepted * keep
        self._rejected = self._lately_rejected = self._lately_rejected * keep
        self._seen_at, self._idle_steps = clock, 0
        return (self._accepted + self._rejected) / before if before > 0.0 else 1.0

    def steps_since(self, clock: int) -> int:
        """Steps since it was observed last."""
        return clock - self._seen_at

    def restore(self, seen_at: int, accepted: float, rejected: float) -> None:
        """Counts of another run; what came lately there is gone."""
        self._seen_at, self._accepted, self._rejected = seen_at, accepted, rejected


def _kept_share(total: float, waning: float) -> float:
    """Forgetting stops at KEPT_COUNT."""
    return 1.0 if total <= KEPT_COUNT else max(waning, KEPT_COUNT / total)
