"""The cold start: a tour over the lengths, a few steps each, so that a first fit exists."""

from __future__ import annotations

import math

import numpy as np

from control_service.core.types import StepObservation

BURST_STEPS = 2
# Of the tour: none, the shortest, then those.
FIRST_LONGER_STAGE = 2
# Twice around: a machine that slows down in the middle must not look like a length that is slow.
ROUNDS = 2
LENGTHS_MAX = 6
# Steps this slow are few until telemetry tells of them, and a length too long costs many steps' time: where
# they are, no length is run before the one below it was heard of. Whether they are, and whether a draft
# costs a whole step, is heard of the first two, so the third waits for them anywhere.
SLOW_STEP_S = 0.025
# Telemetry is not waited for longer than so many bursts: what steps that are not slow could lose is less.
SLOW_WAITS_MAX = 16
FIRST_WAITS_MAX = 6
# Steps to wait for telemetry before the tour is run again; doubles each time.
PATIENCE_STEPS = 64
PATIENCE_MAX_STEPS = 4_096
# Acceptance is believed to be up to this many standard errors better than seen.
HOPE_Z = 2.0


class ColdStart:
    """Runs none, the reference, then every length from the shortest on while the next may still pay.

    It advances with step indices, not with telemetry, which comes late. Telemetry ends it early, and is
    waited for: at the shortest length before any longer one is run, and at length 0 where steps are slow.
    A length is beyond hope if it would not pay even though every draft behind the first position were
    accepted, at the price per draft seen so far: a long draft of a large batch costs many steps' time.
    """

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self._tour = _tour(lengths)
        self._start: int | None = None
        self._patience = PATIENCE_STEPS
        self._waits_until = 0
        self._waits_at = 0
        self._waits = 0
        # Without hope: nothing more to run until the tour is run again.
        self._is_over = False
        self._batch_size = 0
        # The fastest step of each length at that batch size; slow ones may be anybody's fault.
        self._fastest_s: dict[int, float] = {}
        self._drafted = 0
        self._accepted = 0
        # Lengths that ran since the tour began: only one, if the engine did not obey.
        self._ran: set[int] = set()

    def length_at(self, step_index: int) -> int | None:
        """The length to run at this step; None once the tour is over."""
        if self._start is None:
            self._start = step_index
        if step_index < self._waits_until:
            return self._waits_at
        stage = max(step_index - self._start, 0) // BURST_STEPS
        if stage >= ROUNDS * len(self._tour):
            return None
        length = self._tour[stage % len(self._tour)]
        self._is_over |= self._is_hopeless(length)
        if self._is_over:
            return None
        waits_max = SLOW_WAITS_MAX if self._is_slow() else FIRST_WAITS_MAX
        if self._waits < waits_max and self._is_unheard_of(stage - 1):
            self._waits += 1
            self._start += BURST_STEPS
            self._waits_until = step_index + BURST_STEPS
            self._waits_at = 0 if self._is_slow() else self._tour[1]
            return self._waits_at
        return length

    def steps_left(self, step_index: int) -> int:
        """For how many steps from this one on `length_at` says the same."""
        if step_index < self._waits_until:
            return self._waits_until - step_index
        start = self._start if self._start is not None else step_index
        return BURST_STEPS - max(step_index - start, 0) % BURST_STEPS

    def observe(self, step: StepObservation) -> None:
        """Hear of one served step."""
        self._ran.add(step.num_steps)
        if step.batch_size != self._batch_size:
            self._batch_size = step.batch_size
            self._fastest_s.clear()
        if not step.changed_length:
            before_s = self._fastest_s.get(step.num_steps, math.inf)
            self._fastest_s[step.num_steps] = min(before_s, step.duration_s)
        if step.num_steps and True not in step.first_step:
            self._drafted += step.batch_size
            self._accepted += step.batch_size - step.accepted_drafts.count(0)

    def repeat_if_due(self, step_index: int) -> None:
        """The models are still not ready: start over once patience has run out.

        Patience does not grow with tours that a canary did not apply: they cost nothing.
        """
        tour_steps = ROUNDS * BURST_STEPS * len(self._tour)
        if self._start is None or step_index < self._start + tour_steps + self._patience:
            return
        self._start = step_index
        self._waits = 0
        self._is_over = False
        if len(self._ran) != 1:
            self._patience = min(2 * self._patience, PATIENCE_MAX_STEPS)
        self._ran.clear()

    def _is_unheard_of(self, stage: int) -> bool:
        """Whether telemetry of that stage of the first time around is to be waited for, and still to come."""
        if not 0 < stage < len(self._tour):
            return False
        first_longer = stage + 1 == FIRST_LONGER_STAGE < len(self._tour)
        if not first_longer and not self._is_slow():
            return False
        return self._tour[stage] not in self._fastest_s

    def _is_slow(self) -> bool:
        return self._fastest_s.get(0, 0.0) >= SLOW_STEP_S

    def _is_hopeless(self, length: int) -> bool:
        seen = max(self._fastest_s, default=0)
        if 0 not in self._fastest_s or not 0 < seen < length:
            return False
        without_s = self._fastest_s[0]
        draft_s = max(self._fastest_s[seen] - without_s, 0.0) / seen
        return 1.0 + self._hope() * length <= (without_s + draft_s * length) / without_s

    def _hope(self) -> float:
        """An upper bound of the first position's acceptance."""
        mean = (self._accepted + 1.0) / (self._drafted + 2.0)
        return min(mean + HOPE_Z * math.sqrt(mean * (1.0 - mean) / (self._drafted + 2.0)), 1.0)


def _tour(lengths: tuple[int, ...]) -> tuple[int, ...]:
    positive = [length for length in lengths if length > 0]
    if len(positive) >= LENGTHS_MAX:
        places = np.linspace(0, len(positive) - 1, LENGTHS_MAX - 1).round().astype(int)
        positive = [positive[place] for place in sorted(set(places.tolist()))]
    return (0, *positive)
