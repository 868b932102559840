"""A lease on the speculation length: what is believed, what is refused and why.

Pure: no clock, no I/O. The mailbox holds one lease, the link makes them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from turbospec.v1.control_pb2 import (
    MODE_CANARY,
    MODE_ENFORCE,
    MODE_OFF,
    MODE_SHADOW,
    DecideResponse,
)

MAX_TIERS: Final = 64
MAX_VALID_STEPS: Final = 10_000
MAX_VALID_MS: Final = 60_000
# Canary control alternates over blocks: single steps would only measure the switching.
CANARY_BLOCK_STEPS: Final = 128

NS_PER_MS: Final = 1_000_000


class Refused(ValueError):
    """A lease that must not be obeyed; ``cause`` is one of a fixed set, for counting."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Lease(NamedTuple):
    """A checked answer. Holds for steps ``first_step`` to ``last_step``, until ``expires_ns``."""

    decision_id: int
    model_generation: int
    first_step: int
    last_step: int
    expires_ns: int  # on the engine's monotonic clock
    mode: int
    canary_percent: int
    max_batch_sizes: tuple[int, ...]
    num_steps: tuple[int, ...]

    def length_for(self, batch_size: int) -> int:
        """Speculation length for a batch; 0 beyond the last tier."""
        tier = bisect_left(self.max_batch_sizes, batch_size)
        return self.num_steps[tier] if tier < len(self.num_steps) else 0

    def lengths(self, max_batch_size: int) -> bytes:
        """The length for every batch size from 0 to the largest, a byte each."""
        spread = b""
        for limit, length in zip(self.max_batch_sizes, self.num_steps, strict=True):
            spread += bytes((length,)) * (min(limit, max_batch_size) + 1 - len(spread))
        return spread.ljust(max_batch_size + 1, b"\0")


def applies(mode: int, canary_percent: int, step_index: int) -> bool:
    """Whether a step is to obey a lease of this mode, or to run the launch length beside it."""
    if mode == MODE_CANARY:
        block = step_index // CANARY_BLOCK_STEPS
        return (block * 0x9E3779B97F4A7C15 >> 32) % 100 < canary_percent
    return mode == MODE_ENFORCE


class Fence(NamedTuple):
    """What the engine knows as an answer arrives; the answer must fit it."""

    epoch: int
    candidate_num_steps: frozenset[int]
    last_asked_step: int
    newest_answered_step: int
    newest_generation: int
    newest_decision_id: int


def check(answer: DecideResponse, fence: Fence, now_ns: int) -> Lease:
    """Turn an answer into a lease.

    Raises:
        Refused: with cause wrong_epoch, future_step, out_of_order, duplicate,
            stale_generation, malformed or unknown_length. Nothing is clamped.
    """
    if answer.epoch != fence.epoch:
        raise Refused("wrong_epoch")
    if answer.step_index > fence.last_asked_step:
        raise Refused("future_step")
    if answer.step_index < fence.newest_answered_step:
        raise Refused("out_of_order")
    # With mode off nothing is decided, so there is no decision to name.
    if answer.decision_id <= fence.newest_decision_id and answer.mode != MODE_OFF:
        raise Refused("duplicate")
    if answer.model_generation < fence.newest_generation:
        raise Refused("stale_generation")
    if not (
        0 < answer.valid_for_steps <= MAX_VALID_STEPS
        and 0 < answer.valid_for_ms <= MAX_VALID_MS
        and answer.step_index > 0
        and answer.mode in (MODE_OFF, MODE_SHADOW, MODE_CANARY, MODE_ENFORCE)
        and (0 < answer.canary_percent < 100 if answer.mode == MODE_CANARY else not answer.canary_percent)
    ):
        raise Refused("malformed")
    limits = tuple(tier.max_batch_size for tier in answer.tiers)
    if not _tiers_fit(limits, off=answer.mode == MODE_OFF):
        raise Refused("malformed")
    lengths = tuple(tier.num_steps for tier in answer.tiers)
    if not fence.candidate_num_steps.issuperset(lengths):
        raise Refused("unknown_length")
    return Lease(
        decision_id=answer.decision_id,
        model_generation=answer.model_generation,
        first_step=answer.step_index,
        last_step=answer.step_index + answer.valid_for_steps - 1,
        expires_ns=now_ns + answer.valid_for_ms * NS_PER_MS,
        mode=answer.mode,
        canary_percent=answer.canary_percent,
        max_batch_sizes=limits,
        num_steps=lengths,
    )


def _tiers_fit(limits: Sequence[int], *, off: bool) -> bool:
    if off:
        return not limits
    ascending = all(a < b for a, b in pairwise(limits))
    return 0 < len(limits) <= MAX_TIERS and limits[0] > 0 and ascending
