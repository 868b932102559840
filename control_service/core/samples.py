"""Step-time samples, kept per regime so that steady traffic does not erase what was learned elsewhere."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_REGIMES = 64
SAMPLES_PER_REGIME = 256
# Of a regime that is full, one in so many is kept: what is kept must reach back to the last time that
# another length was looked at, or nothing tells how fast the machine was then.
KEPT_ONE_IN = 8
# ... but all that ran so many steps before and after another length: nothing else tells as well how fast the
# machine was for that one.
WITNESS_STEPS = 8
# Contexts within a factor of four share a regime.
CONTEXT_REGIME_LOG2 = 2.0


_SCATTER = 2_654_435_761


class SampleArrays(NamedTuple):
    """Kept samples, one row each.

    length_index, bucket_index: [n] the cell; paid_size: [n] requests the device worked on;
    context_tokens: [n]; seconds: [n]; age_steps: [n] observed steps since the sample.
    """

    length_index: IntArray
    bucket_index: IntArray
    paid_size: FloatArray
    context_tokens: FloatArray
    seconds: FloatArray
    age_steps: FloatArray


class RegimeSamples:
    """Some samples for each (length, batch bucket, context magnitude).

    Bounded in both directions: a full regime is thinned as more comes, a full table gives the
    regime that was idle longest to the newcomer.
    """

    def __init__(self) -> None:
        self._rows = np.zeros((MAX_REGIMES, SAMPLES_PER_REGIME, 6))
        self._count = np.zeros(MAX_REGIMES, dtype=np.int64)
        self._offered = [0] * MAX_REGIMES
        self._touched_at = [0] * MAX_REGIMES
        self._slot: dict[tuple[int, int, int], int] = {}
        # The newest samples that were thinned out, and the step at which another length ran.
        self._thinned: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=WITNESS_STEPS)
        self._length_index = -1
        self._changed_at = -WITNESS_STEPS

    def __len__(self) -> int:
        return int(np.minimum(self._count, SAMPLES_PER_REGIME).sum())

    def add(
        self,
        *,
        length_index: int,
        bucket_index: int,
        paid_size: int,
        context_tokens: int,
        seconds: float,
        now: int,
    ) -> None:
        """Keep one sample; `now` counts observed steps."""
        magnitude = int(math.log2(context_tokens + 1.0) / CONTEXT_REGIME_LOG2)
        slot = self._slot_of((length_index, bucket_index, magnitude))
        self._touched_at[slot] = now
        self._offered[slot] += 1
        if length_index != self._length_index:
            self._length_index, self._changed_at = length_index, now
            for witness_slot, witness in self._thinned:
                if now - witness[-1] <= WITNESS_STEPS:
                    self._keep(witness_slot, witness)
            self._thinned.clear()
        row = (length_index, bucket_index, paid_size, context_tokens, seconds, now)
        is_thinned = self._count[slot] >= SAMPLES_PER_REGIME and self._offered[slot] % KEPT_ONE_IN != 0
        if is_thinned and now - self._changed_at > WITNESS_STEPS:
            self._thinned.append((slot, row))
        else:
            self._keep(slot, row)

    def _keep(self, slot: int, row: tuple[float, ...]) -> None:
        count = int(self._count[slot])
        # Full, it is thinned evenly, and not from its old end.
        place = count if count < SAMPLES_PER_REGIME else count * _SCATTER % SAMPLES_PER_REGIME
        self._rows[slot, place] = row
        self._count[slot] += 1

    def arrays(self, now: int) -> SampleArrays:
        """All kept samples as they are at observed step `now`."""
        used = len(self._slot)
        filled = np.arange(SAMPLES_PER_REGIME)[None, :] < self._count[:used, None]
        rows = self._rows[:used][filled]
        return SampleArrays(
            length_index=rows[:, 0].astype(np.int64),
            bucket_index=rows[:, 1].astype(np.int64),
            paid_size=rows[:, 2],
            context_tokens=rows[:, 3],
            seconds=rows[:, 4],
            age_steps=now - rows[:, 5],
        )

    def _slot_of(self, regime: tuple[int, int, int]) -> int:
        slot = self._slot.get(regime)
        if slot is not None:
            return slot
        slot = len(self._slot)
        if slot == MAX_REGIMES:
            idle = min(self._slot, key=lambda key: self._touched_at[self._slot[key]])
            slot = self._slot.pop(idle)
            # Some may be of the regime that gives way.
            self._thinned.clear()
        self._slot[regime] = slot
        self._count[slot] = self._offered[slot] = 0
        return slot
