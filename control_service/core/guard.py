"""Compares what speculation really brings with what none would bring, and pulls the plug."""

from __future__ import annotations

import math

WINDOW_STEPS = 256.0
MIN_WINDOW_STEPS = 64.0
MARGIN_RATIO = 0.05
# Tokens a request and step scatter by about half their mean: luck alone must not trip it.
TOKEN_SCATTER_RATIO = 0.5
LUCK_Z = 2.0
# One slow step (a prefill in between, a busy neighbour) must not trip the guard.
DURATION_CLIP_RATIO = 2.0
# Held shortly at first: steps of length 0 then tell what they take with such contexts, and where the guard
# was wrong about that, the choice is free again soon.
HOLD_STEPS = 64
HOLD_MAX_STEPS = 8_192
# Each hold is twice the one before, unless all was well for so long since.
FORGET_STEPS = 8_192


class Guard:
    """Trips when speculating loses more than a margin against length 0, and holds for a while.

    Independent of the choice's arithmetic: measured tokens and seconds of served steps
    on one side, the fitted time of length 0 on the other.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._tokens_without = 0.0
        self._steps = 0.0
        self._requests = 0.0
        self._held_until = 0
        self._hold_steps = HOLD_STEPS
        self.trips_total = 0

    def holds(self, step_index: int) -> bool:
        """Whether length 0 is in force by the guard."""
        return step_index < self._held_until

    @property
    def measured_ratio(self) -> float:
        """Measured goodput over that without speculation; NaN until there is data."""
        return self._tokens / self._tokens_without if self._tokens_without > 0.0 else math.nan

    def observe(
        self,
        *,
        step_index: int,
        batch_size: int,
        tokens: int,
        duration_s: float,
        expected_s: float,
        expected_s_without: float,
    ) -> None:
        """One step with speculation; the expectations are the fit's, of the length run and of 0."""
        keep = math.exp(-1.0 / WINDOW_STEPS)
        paid_s = min(duration_s, DURATION_CLIP_RATIO * expected_s)
        self._tokens = self._tokens * keep + tokens
        self._tokens_without = self._tokens_without * keep + batch_size * paid_s / expected_s_without
        self._steps = self._steps * keep + 1.0
        self._requests = self._requests * keep + batch_size
        luck = LUCK_Z * TOKEN_SCATTER_RATIO / math.sqrt(self._requests)
        if self._steps >= MIN_WINDOW_STEPS and self.measured_ratio < 1.0 - MARGIN_RATIO - luck:
            self._trip(step_index)

    def _trip(self, step_index: int) -> None:
        self.trips_total += 1
        if step_index - self._held_until > FORGET_STEPS:
            self._hold_steps = HOLD_STEPS
        self._held_until = step_index + self._hold_steps
        self._hold_steps = min(2 * self._hold_steps, HOLD_MAX_STEPS)
        self._tokens = self._tokens_without = self._steps = self._requests = 0.0
