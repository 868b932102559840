"""One acceptance rate: counts that forget, and how far the newest of them are from those before.

Two Beta counters: the slow one holds hundreds of steps, the fast one the last few dozen. Each step is
foretold from both, and the estimate leans on the one that has foretold better: where acceptance is steady
that is the slow one, which scatters less; where it comes in stretches, as in text that is copied and then
not, the fast one. Where the two differ beyond chance, the owner lets every rate begin anew from what came
lately.
"""

from __future__ import annotations

import math

# How far back the estimate reaches, unless its owner says otherwise.
SLOW_WINDOW_STEPS = 500.0
# What came lately reaches back so many steps, or as many drafts: a position that is seldom reached needs
# longer to tell anything.
FAST_WINDOW_STEPS = 20.0
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
# Log odds that what came lately foretells better: to begin with, and at most, so that they can turn.
LATELY_LOG_ODDS = -2.0
LATELY_LOG_ODDS_MAX = 5.0
# What came before then still counts like so many drafts.
LATELY_STRENGTH = 4.0


class RateCounter:
    """Accepted and rejected drafts at one position. Steps are counted by its owner's clock.

    >>> rate = RateCounter()
    >>> for clock in range(1, 101):
    ...     _ = rate.count(clock, 3, 1)
    >>> mean, variance = rate.posterior(0.6, 2.0)
    >>> round(mean, 2), round(math.sqrt(variance), 3)
    (0.75, 0.029)
    >>> for clock in range(101, 121):
    ...     _ = rate.count(clock, 1, 3)
    >>> round(rate.departure(), 1)
    -4.1
    """

    __slots__ = (
        "_accepted",
        "_idle_steps",
        "_lately_accepted",
        "_lately_log_odds",
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
        self._lately_log_odds = LATELY_LOG_ODDS
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
        self._judge(clock, accepted, rejected)
        idle, self._idle_steps = self._idle_steps, 0
        elapsed, self._seen_at = clock - self._seen_at, clock
        waning = math.exp((idle - elapsed) / self._window_steps - idle / IDLE_WINDOW_STEPS)
        keep = _kept_share(self._accepted + self._rejected, waning)
        faded = min(elapsed, accepted + rejected) / FAST_WINDOW_STEPS
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

    def believed(self) -> tuple[float, float]:
        """The counts to estimate by: where what came lately foretells better, few of those before it."""
        accepted, rejected = self.counts()
        accepted_before = max(accepted - self._lately_accepted, 0.0)
        rejected_before = max(rejected - self._lately_rejected, 0.0)
        # The longer ago what came lately is, the less does it say of now.
        share = math.exp(-self._idle_steps / IDLE_WINDOW_STEPS) / (1.0 + math.exp(-self._lately_log_odds))
        before = accepted_before + rejected_before
        less = share * max(1.0 - LATELY_STRENGTH / before, 0.0) if before > 0.0 else 0.0
        return accepted - less * accepted_before, rejected - less * rejected_before

    def posterior(self, prior: float, strength: float) -> tuple[float, float]:
        """Mean and variance of the rate; `prior` counts like `strength` drafts."""
        accepted, rejected = self.believed()
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

    def _judge(self, clock: int, accepted: int, rejected: int) -> None:
        """Which counter has foretold these outcomes better."""
        total, lately = self._accepted + self._rejected, self._lately_accepted + self._lately_rejected
        if min(total, lately) < DEPARTURE_MIN_COUNT:
            return
        slow = (self._accepted + 0.5) / (total + 1.0)
        fast = (self._lately_accepted + LATELY_STRENGTH * slow) / (lately + LATELY_STRENGTH)
        lead = accepted * math.log(fast / slow) + rejected * math.log((1.0 - fast) / (1.0 - slow))
        keep = math.exp((self._seen_at - clock) / SLOW_WINDOW_STEPS)
        odds = LATELY_LOG_ODDS + (self._lately_log_odds - LATELY_LOG_ODDS) * keep + lead / OVERDISPERSION
        self._lately_log_odds = min(max(odds, -LATELY_LOG_ODDS_MAX), LATELY_LOG_ODDS_MAX)


def _kept_share(total: float, waning: float) -> float:
    """Forgetting stops at KEPT_COUNT."""
    return 1.0 if total <= KEPT_COUNT else max(waning, KEPT_COUNT / total)
