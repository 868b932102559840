"""The memory that the step thread shares with the agent process.

SGLang's scheduler is one Python thread that must not share its interpreter lock with
anybody: a gRPC thread in the same process would hold the lock in the very microseconds
in which a step wants it back. So the agent is a process of its own, and this is all
that lies between: plain words in shared memory, each written by one side only.

- The newest *ask* (engine writes) and the newest *lease* (agent writes): two slots
  each and a sequence number that says which one is valid. A writer fills the other
  slot, then publishes the number; a reader that finds the number two ahead reads again.
- A ring of step records, one writer and one reader, with head and tail.

Neither side ever waits for the other, makes a system call or takes a lock. Publishing
by one aligned 8-byte store relies on x86-64's store order.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

from sglang_patch.decision import DEADLINE, DISCONNECTED, ERROR, OVERDUE, Decision
from sglang_patch.lease import MAX_TIERS, Lease
from sglang_patch.recorder import StepRecord
from turbospec.v1.telemetry import SOURCES

# What the step thread knows as it asks: step index, batch size, context tokens, waiting requests.
Ask = tuple[int, int, int, int]

WORD: Final = 8
# Words of the head.
_ASK_SEQ, _LEASE_SEQ, _CONNECTED, _HEAD, _TAIL, _DROPPED = range(6)
_ASKS: Final = 8
_ASK_WORDS: Final = 4
_LEASES: Final = _ASKS + 2 * _ASK_WORDS
_LEASE_HEAD_WORDS: Final = 8
_LEASE_WORDS: Final = _LEASE_HEAD_WORDS + 2 * MAX_TIERS
_RING_BYTES_AT: Final = (_LEASES + 2 * _LEASE_WORDS) * WORD

# A record's fixed part; then one byte a request for accepted drafts, one for first steps.
_RECORD: Final = struct.Struct("=17Q")
MAX_BATCH_SIZE: Final = 4096
_SLOT_BYTES: Final = _RECORD.size + 2 * MAX_BATCH_SIZE

# Fallback reasons travel as their place in this list.
REASONS: Final = ("", DISCONNECTED, DEADLINE, OVERDUE, ERROR)


# Covers no step.
_NOTHING: Final = Lease(0, 0, 1, 0, 0, 0, 0, (), ())


class Board:
    """One side's view of the shared memory. The engine creates it, the agent opens it by descriptor."""

    def __init__(self, ring_size: int, descriptor: int | None = None) -> None:
        size = _RING_BYTES_AT + ring_size * _SLOT_BYTES
        if descriptor is None:
            descriptor = os.memfd_create("turbospec-board")
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self.ring_size = ring_size
        self._memory = mmap.mmap(descriptor, size)
        self._bytes = memoryview(self._memory)
        self._words = self._bytes[:_RING_BYTES_AT].cast("Q")
        self._lease_seq = 0
        self._lease = _NOTHING

    # -- engine: written by the step thread ----------------------------------

    def ask(self, step_index: int, batch_size: int, context_tokens: int, waiting_requests: int) -> None:
        words = self._words
        sequence = words[_ASK_SEQ] + 1
        at = _ASKS + (sequence & 1) * _ASK_WORDS
        words[at] = step_index
        words[at + 1] = batch_size
        words[at + 2] = context_tokens
        words[at + 3] = waiting_requests
        words[_ASK_SEQ] = sequence

    def lease(self) -> Lease | None:
        """The newest lease while there is a stream, else None."""
        words = self._words
        if not words[_CONNECTED]:
            return None
        if words[_LEASE_SEQ] != self._lease_seq:
            self._lease_seq, self._lease = self._read_lease()
        return self._lease

    def push(self, record: StepRecord) -> None:
        """Append a finished record; if the agent has fallen a whole ring behind it is dropped and counted."""
        words = self._words
        head = words[_HEAD]
        size = record.batch_size
        if head - words[_TAIL] >= self.ring_size or size > MAX_BATCH_SIZE:
            words[_DROPPED] += 1
            return
        at = _RING_BYTES_AT + head % self.ring_size * _SLOT_BYTES
        decision = record.decision
        _RECORD.pack_into(
            self._bytes,
            at,
            record.step_index,
            size,
            record.context_tokens,
            record.waiting_requests,
            decision.decision_id,
            decision.wait_ns,
            record.control_ns,
            record.start_ns,
            record.end_ns,
            record.draft_ns,
            record.verify_ns,
            record.draft_extend_ns,
            # Lengths are -1 where there is none.
            record.num_steps + 1,
            record.previous_num_steps + 1,
            decision.shadow_num_steps + 1,
            SOURCES.index(decision.source),
            REASONS.index(decision.reason),
        )
        at += _RECORD.size
        self._bytes[at : at + size] = bytes(record.accepted_drafts)
        self._bytes[at + size : at + 2 * size] = bytes(record.first_step)
        words[_HEAD] = head + 1

    # -- agent ---------------------------------------------------------------

    @property
    def ask_sequence(self) -> int:
        """Grows with every ask; 0 before the first."""
        return self._words[_ASK_SEQ]

    @property
    def dropped(self) -> int:
        """Records lost because the ring was full."""
        return self._words[_DROPPED]

    def newest_ask(self) -> Ask:
        words = self._words
        while True:
            sequence = words[_ASK_SEQ]
            at = _ASKS + (sequence & 1) * _ASK_WORDS
            step_index, batch_size, context_tokens, waiting = words[at : at + _ASK_WORDS].tolist()
            if words[_ASK_SEQ] - sequence < 2:
                return step_index, batch_size, context_tokens, waiting

    def connected(self) -> None:
        self._words[_CONNECTED] = 1

    def disconnected(self) -> None:
        """The stream is gone, and with it every promise it carried."""
        self._words[_CONNECTED] = 0
        self.post(_NOTHING)

    def post(self, lease: Lease) -> None:
        words = self._words
        sequence = words[_LEASE_SEQ] + 1
        at = _LEASES + (sequence & 1) * _LEASE_WORDS
        values = (
            lease.decision_id,
            lease.model_generation,
            lease.first_step,
            lease.last_step,
            lease.expires_ns,
            lease.mode,
            lease.canary_percent,
            len(lease.num_steps),
            *lease.max_batch_sizes,
            *lease.num_steps,
        )
        for offset, value in enumerate(values):
            words[at + offset] = value
        words[_LEASE_SEQ] = sequence

    def take(self, limit: int) -> list[StepRecord]:
        """Up to ``limit`` records, oldest first."""
        words = self._words
        tail = words[_TAIL]
        count = min(limit, words[_HEAD] - tail)
        records = [self._read_record(tail + offset) for offset in range(count)]
        words[_TAIL] = tail + count
        return records

    def _read_lease(self) -> tuple[int, Lease]:
        words = self._words
        while True:
            sequence = words[_LEASE_SEQ]
            at = _LEASES + (sequence & 1) * _LEASE_WORDS
            decision_id, generation, first_step, last_step, expires_ns, mode, percent, tiers = words[
                at : at + _LEASE_HEAD_WORDS
            ].tolist()
            at += _LEASE_HEAD_WORDS
            table = words[at : at + 2 * min(tiers, MAX_TIERS)].tolist()
            if words[_LEASE_SEQ] - sequence < 2:
                limits, lengths = tuple(table[:tiers]), tuple(table[tiers:])
                return sequence, Lease(
                    decision_id, generation, first_step, last_step, expires_ns, mode, percent, limits, lengths
                )

    def _read_record(self, index: int) -> StepRecord:
        at = _RING_BYTES_AT + index % self.ring_size * _SLOT_BYTES
        (
            step_index,
            batch_size,
            context_tokens,
            waiting_requests,
            decision_id,
            wait_ns,
            control_ns,
            start_ns,
            end_ns,
            draft_ns,
            verify_ns,
            draft_extend_ns,
            num_steps,
            previous_num_steps,
            shadow_num_steps,
            source,
            reason,
        ) = _RECORD.unpack_from(self._bytes, at)
        decision = Decision(
            num_steps - 1, SOURCES[source], REASONS[reason], decision_id, shadow_num_steps - 1, wait_ns
        )
        record = StepRecord(step_index, batch_size, context_tokens, waiting_requests, decision, start_ns)
        record.control_ns = control_ns
        record.end_ns = end_ns
        record.draft_ns = draft_ns
        record.verify_ns = verify_ns
        record.draft_extend_ns = draft_extend_ns
        record.num_steps = num_steps - 1
        record.previous_num_steps = previous_num_steps - 1
        at += _RECORD.size
        record.accepted_drafts = list(self._bytes[at : at + batch_size])
        record.first_step = [flag != 0 for flag in self._bytes[at + batch_size : at + 2 * batch_size]]
        return record
