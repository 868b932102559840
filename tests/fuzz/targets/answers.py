"""What a lying service can do to an engine."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from google.protobuf.message import DecodeError

from sglang_patch.board import Board
from sglang_patch.clock import SystemClock
from sglang_patch.lease import (
    MAX_TIERS,
    MAX_VALID_MS,
    MAX_VALID_STEPS,
    NS_PER_MS,
    Lease,
    Refused,
    check,
)
from sglang_patch.link import Reader
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator
from turbospec.v1.control_pb2 import MODE_CANARY, MODE_ENFORCE, MODE_OFF, MODE_SHADOW, DecideResponse

BATCH_MAX: Final = 16
STREAM_MESSAGES: Final = 50
REFUSAL_CAUSES: Final = frozenset(
    {
        *("wrong_epoch", "future_step", "out_of_order", "duplicate"),
        *("stale_generation", "malformed", "unknown_length"),
    }
)


class Answers:
    """DecideResponse bytes -> the link's checks -> the board."""

    def __init__(self) -> None:
        self._seeds = seeds.answers()
        self._candidates = frozenset(seeds.CANDIDATES)
        # One for the life of the engine, over all streams.
        self._board = Board(16, BATCH_MAX)
        self._fed = 0
        self._begin()

    def seeds(self) -> list[bytes]:
        return self._seeds

    def spoil(self, data: bytes, mutator: Mutator) -> bytes:
        return mutator.message(data, self._seeds, DecideResponse)

    def feed(self, data: bytes) -> None:
        self._fed += 1
        if self._fed % STREAM_MESSAGES == 0:
            self._begin()
        now_ns = SystemClock.monotonic_ns()
        try:
            answer = DecideResponse.FromString(data)
            lease = check(answer, self._reader.fence(seeds.ASKED_STEP), now_ns)
        except DecodeError:
            # gRPC ends the stream with INTERNAL; the next one starts from nothing.
            self._begin()
        except Refused as refusal:
            if refusal.cause not in REFUSAL_CAUSES:
                raise AssertionError(f"refused for an unknown cause, {refusal.cause}") from refusal
        else:
            self._check_lease(lease, now_ns)
            self._reader.saw(answer)
            self._board.post(lease)
        for batch_size in (0, 1, 4, 5, BATCH_MAX, BATCH_MAX + 1, 1 << 20):
            reading = self._board.lease(batch_size)
            assert reading is not None
            assert reading[-1] in self._candidates, f"batch {batch_size} reads length {reading[-1]}"

    def _begin(self) -> None:
        """A new stream of an engine that is asking for ASKED_STEP."""
        self._board.disconnect()
        self._board.connect()
        self._reader = Reader(seeds.EPOCH, self._candidates)
        self._newest_id = self._newest_generation = self._newest_step = 0

    def _check_lease(self, lease: Lease, now_ns: int) -> None:
        assert max(1, self._newest_step) <= lease.first_step <= seeds.ASKED_STEP
        assert 1 <= lease.last_step - lease.first_step + 1 <= MAX_VALID_STEPS
        assert 1 <= lease.expires_ns - now_ns <= MAX_VALID_MS * NS_PER_MS
        assert lease.decision_id > self._newest_id or lease.mode == MODE_OFF
        assert lease.model_generation >= self._newest_generation
        assert lease.mode in (MODE_OFF, MODE_SHADOW, MODE_CANARY, MODE_ENFORCE)
        assert (lease.mode == MODE_CANARY) == (0 < lease.canary_percent < 100)
        assert len(lease.max_batch_sizes) == len(lease.num_steps) <= MAX_TIERS
        assert all(low < high for low, high in pairwise(lease.max_batch_sizes))
        assert self._candidates.issuperset(lease.num_steps)
        self._newest_step = lease.first_step
        self._newest_id = max(self._newest_id, lease.decision_id)
        self._newest_generation = lease.model_generation
