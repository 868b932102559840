"""What a lying service can do to an engine."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from google.protobuf.message import DecodeError

from sglang_patch.board import Board
from sglang_patch.conversation import Conversation, Reader
from sglang_patch.lease import MAX_TIERS, MAX_VALID_MS, MAX_VALID_STEPS, NS_PER_MS
from sglang_patch.outbox import Outbox
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator
from turbospec.v1.control_pb2 import MODE_CANARY, MODE_ENFORCE, MODE_OFF, MODE_SHADOW, DecideResponse

BATCH_MAX: Final = 16
STREAM_MESSAGES: Final = 50
# Between two answers, on a clock of our own.
ANSWER_INTERVAL_NS: Final = 20 * NS_PER_MS


class Answers:
    """DecideResponse bytes -> the link's conversation and checks -> the board."""

    def __init__(self) -> None:
        self._seeds = seeds.answers()
        self._candidates = frozenset(seeds.CANDIDATES)
        # One of each for the life of the engine, over all streams.
        self._board = Board(16, BATCH_MAX)
        self._conversation = Conversation(profile=seeds.PROFILE, board=self._board, step_deadline_us=2_000)
        self._now_ns = 1
        self._fed = 0
        self._begin()

    def seeds(self) -> list[bytes]:
        return self._seeds

    def spoil(self, data: bytes, mutator: Mutator) -> bytes:
        return mutator.message(data, self._seeds, DecideResponse)

    def feed(self, data: bytes) -> None:
        self._fed += 1
        self._now_ns += ANSWER_INTERVAL_NS
        if self._fed % STREAM_MESSAGES == 0:
            self._begin()
        self._conversation.ask((seeds.ASKED_STEP, 2, 100, 0), self._now_ns)
        try:
            answer = DecideResponse.FromString(data)
        except DecodeError:
            # gRPC ends the stream with INTERNAL; the next one starts from nothing.
            self._begin()
            return
        before = self._conversation._lease
        assert self._conversation.accept(self._reader, answer, self._now_ns), "no flood: one answer an ask"
        self._conversation.beat(self._now_ns)
        if self._conversation._lease is not before:
            self._check_lease(answer)
        for batch_size in (0, 1, 4, 5, BATCH_MAX, BATCH_MAX + 1, 1 << 20):
            reading = self._board.lease(batch_size)
            assert reading is not None
            assert reading[-1] in self._candidates, f"batch {batch_size} reads length {reading[-1]}"

    def _begin(self) -> None:
        """A new stream of an engine that is asking for ASKED_STEP."""
        self._conversation.lost()
        self._conversation.opened(Outbox(seeds.PROFILE), self._now_ns)
        self._board.ask(seeds.ASKED_STEP, 2, 100, 0)
        self._reader = Reader(seeds.EPOCH, self._candidates)
        self._newest_id = self._newest_generation = self._newest_step = 0

    def _check_lease(self, answer: DecideResponse) -> None:
        lease = self._conversation._lease
        assert lease is not None
        assert answer.epoch == seeds.EPOCH
        assert max(1, self._newest_step) <= lease.first_step <= seeds.ASKED_STEP
        assert 1 <= lease.last_step - lease.first_step + 1 <= MAX_VALID_STEPS
        assert 1 <= lease.expires_ns - self._now_ns <= MAX_VALID_MS * NS_PER_MS
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
