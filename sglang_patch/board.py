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

from sglang_patch.decision import Decision
from sglang_patch.lease import Lease
from sglang_patch.link_state import CONNECTING
from sglang_patch.recorder import StepRecord
from turbospec.v1.telemetry import LEASE_REFUSAL_CAUSES, LINK_STATES

# What the step thread knows as it asks: step index, batch size, context tokens, waiting requests.
Ask = tuple[int, int, int, int]

WORD: Final = 8
_CODES: Final = 256
# Words of the head. First those that every step touches, then two asks, then those that change seldom.
_ASK_SEQ, _LEASE_SEQ, _CONNECTED, _HEAD, _TAIL, _DROPPED = range(6)
_ASKS: Final = 8
_ASK_WORDS: Final = 4
_SELDOM: Final = _ASKS + 2 * _ASK_WORDS
# Written by the engine: the operator's switches, our failures, how often the breaker opened.
_SWITCHES, _FAILURES, _OPENED = range(_SELDOM, _SELDOM + 3)
# Written by the agent: openings it has closed, state of the link, asks and records lost, refusals by cause.
_CLOSED, _STATE, _LOST_ASKS, _LOST_RECORDS, _REFUSALS = range(_SELDOM + 8, _SELDOM + 13)
_LEASES_AT: Final = (_REFUSALS + len(LEASE_REFUSAL_CAUSES)) * WORD
# Bits of the switches.
_KILLED, _OFF = 1, 2

# A lease's fixed part; then one byte a batch size, from 0 to the largest: its length. The agent
# spreads the tiers out, so that the step thread reads one byte instead of searching a table.
_LEASE: Final = struct.Struct("=5Q2q")
# A record's fixed part; then by request a byte each: accepted drafts, first step, after a full accept.
_RECORD: Final = struct.Struct("=13Q4b")


# Covers no step.
_NOTHING: Final = Lease(0, 0, 1, 0, 0, 0, 0, (), ())

# What the step thread reads of a lease: decision id, first and last step, expiry in monotonic
# nanoseconds, mode, canary percent, length for the batch at hand.
Reading = tuple[int, int, int, int, int, int, int]


class Board:
    """One side's view of the shared memory. The engine creates it, the agent opens it by descriptor."""

    def __init__(self, ring_size: int, max_batch_size: int, descriptor: int | None = None) -> None:
        lease_bytes = _aligned(_LEASE.size + max_batch_size + 1)
        self._ring_at = _LEASES_AT + 2 * lease_bytes
        self._slot_bytes = _aligned(_RECORD.size + 3 * max_batch_size)
        size = self._ring_at + ring_size * self._slot_bytes
        if descriptor is None:
            descriptor = os.memfd_create("turbospec-board")
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self.ring_size = ring_size
        self.max_batch_size = max_batch_size
        # Populated: a page fault must not be the step thread's to take.
        self._memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._bytes = memoryview(self._memory)
        self._words = self._bytes[:_LEASES_AT].cast("Q")
        self._lease_at = (_LEASES_AT, _LEASES_AT + lease_bytes)
        # The lease as it was read last, and what it was read for.
        self._reading: Reading | None = None
        self._read_sequence = self._read_for = -1
        # A whole record's form for the batch size of the last one: it seldom changes.
        self._form = _RECORD
        self._form_for = -1

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

    def connected(self) -> bool:
        return self._words[_CONNECTED] != 0

    def lease(self, batch_size: int) -> Reading | None:
        """The newest lease as it reads for a batch while there is a stream, else None.

        The very same object for as long as there is nothing new to read.
        """
        words = self._words
        if not words[_CONNECTED]:
            return None
        while True:
            sequence = words[_LEASE_SEQ]
            if sequence == self._read_sequence and batch_size == self._read_for:
                return self._reading
            at = self._lease_at[sequence & 1]
            decision_id, first_step, last_step, expires_ns, _, mode, percent = _LEASE.unpack_from(
                self._bytes, at
            )
            length = self._bytes[at + _LEASE.size + batch_size] if batch_size <= self.max_batch_size else 0
            if words[_LEASE_SEQ] - sequence < 2:
                self._read_sequence, self._read_for = sequence, batch_size
                self._reading = decision_id, first_step, last_step, expires_ns, mode, percent, length
                return self._reading

    def push(self, record: StepRecord) -> None:
        """Append a finished record. Dropped and counted if the agent has fallen a whole ring behind, or if a
        number of it does not fit."""
        words = self._words
        head = words[_HEAD]
        size = record.batch_size
        if head - words[_TAIL] >= self.ring_size or size > self.max_batch_size:
            words[_DROPPED] += 1
            return
        of_requests = bytes((*record.accepted_drafts, *record.first_step, *record.after_full_accept))
        if size != self._form_for:
            self._form, self._form_for = struct.Struct(f"{_RECORD.format}{3 * size}s"), size
        if len(of_requests) != 3 * size:
            # The form would pad or cut it, and credit requests with each other's drafts.
            raise ValueError(f"{len(of_requests)} bytes of {size} requests, not 3 of each")
        num_steps, source, reason, decision_id, shadow_num_steps, wait_ns = record.decision
        try:
            self._form.pack_into(
                self._bytes,
                self._ring_at + head % self.ring_size * self._slot_bytes,
                record.step_index,
                size,
                record.context_tokens,
                record.waiting_requests,
                decision_id,
                wait_ns,
                record.control_ns,
                record.start_ns,
                record.end_ns,
                record.draft_ns,
                record.verify_ns,
                record.draft_extend_ns,
                # Two small codes in one word.
                source * _CODES + reason,
                num_steps,
                record.num_steps,
                record.previous_num_steps,
                shadow_num_steps,
                of_requests,
            )
        except struct.error:
            # A number that cannot be (a clock went back): not worth the control of all steps to come.
            words[_DROPPED] += 1
            return
        words[_HEAD] = head + 1

    # -- engine: written seldom ----------------------------------------------

    def switch(self, *, killed: bool, off: bool) -> None:
        """The operator's switches; written by the thread that watches them."""
        self._words[_SWITCHES] = killed * _KILLED + off * _OFF

    def fail(self) -> None:
        """Our own code has failed on the step thread."""
        self._words[_FAILURES] += 1

    def open_breaker(self) -> None:
        if not self.breaker_open():
            self._words[_OPENED] += 1

    # -- either side may read ------------------------------------------------

    def breaker_open(self) -> bool:
        return self._words[_OPENED] != self._words[_CLOSED]

    def disabled(self) -> bool:
        """Whether the engine wants no leases: kill switch, mode off, or a failure of our own."""
        return self._words[_SWITCHES] != 0 or self._words[_FAILURES] != 0

    def link_state(self) -> int:
        """One of ``link_state``'s numbers, as the agent saw it last."""
        return self._words[_STATE]

    @property
    def link_state_name(self) -> str:
        return LINK_STATES[self._words[_STATE]]

    @property
    def failures(self) -> int:
        """How often our own code has failed on the step thread."""
        return self._words[_FAILURES]

    @property
    def dropped(self) -> int:
        """Records lost because the ring was full."""
        return self._words[_DROPPED]

    @property
    def lost_records(self) -> int:
        """Records lost on the way to the service, the ring's included."""
        return self._words[_DROPPED] + self._words[_LOST_RECORDS]

    @property
    def lost_asks(self) -> int:
        return self._words[_LOST_ASKS]

    def refusals(self) -> dict[str, int]:
        """Leases refused, by cause; causes that did not occur are left out."""
        counts = self._words[_REFUSALS : _REFUSALS + len(LEASE_REFUSAL_CAUSES)].tolist()
        return {cause: count for cause, count in zip(LEASE_REFUSAL_CAUSES, counts, strict=True) if count}

    # -- agent ---------------------------------------------------------------

    @property
    def ask_sequence(self) -> int:
        """Grows with every ask; 0 before the first."""
        return self._words[_ASK_SEQ]

    def tell_state(self, state: int) -> None:
        self._words[_STATE] = state

    def close_breaker(self) -> None:
        self._words[_CLOSED] = self._words[_OPENED]

    def lose_ask(self) -> None:
        self._words[_LOST_ASKS] += 1

    def lose_records(self, count: int) -> None:
        self._words[_LOST_RECORDS] += count

    def refuse(self, cause: str) -> None:
        """Count a refused lease. What the agent counts is here so that it outlives an agent."""
        self._words[_REFUSALS + LEASE_REFUSAL_CAUSES.index(cause)] += 1

    def newest_ask(self) -> Ask:
        words = self._words
        while True:
            sequence = words[_ASK_SEQ]
            at = _ASKS + (sequence & 1) * _ASK_WORDS
            step_index, batch_size, context_tokens, waiting = words[at : at + _ASK_WORDS].tolist()
            if words[_ASK_SEQ] - sequence < 2:
                return step_index, batch_size, context_tokens, waiting

    def connect(self) -> None:
        self._words[_CONNECTED] = 1

    def disconnect(self) -> None:
        """The stream is gone, and with it every promise it carried."""
        self._words[_CONNECTED] = 0
        self._words[_STATE] = CONNECTING
        self.post(_NOTHING)

    def post(self, lease: Lease) -> None:
        words = self._words
        sequence = words[_LEASE_SEQ] + 1
        at = self._lease_at[sequence & 1]
        _LEASE.pack_into(
            self._bytes,
            at,
            lease.decision_id,
            lease.first_step,
            lease.last_step,
            lease.expires_ns,
            lease.model_generation,
            lease.mode,
            lease.canary_percent,
        )
        at += _LEASE.size
        lengths = lease.lengths(self.max_batch_size)
        self._bytes[at : at + len(lengths)] = lengths
        words[_LEASE_SEQ] = sequence

    @property
    def records(self) -> int:
        """How many are to be taken."""
        return self._words[_HEAD] - self._words[_TAIL]

    def take(self, limit: int) -> list[StepRecord]:
        """Up to ``limit`` records, oldest first."""
        words = self._words
        tail = words[_TAIL]
        count = min(limit, words[_HEAD] - tail)
        records = [self._read_record(tail + offset) for offset in range(count)]
        words[_TAIL] = tail + count
        return records

    def _read_record(self, index: int) -> StepRecord:
        at = self._ring_at + index % self.ring_size * self._slot_bytes
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
            codes,
            decided_num_steps,
            num_steps,
            previous_num_steps,
            shadow_num_steps,
        ) = _RECORD.unpack_from(self._bytes, at)
        source, reason = divmod(codes, _CODES)
        decision = Decision(decided_num_steps, source, reason, decision_id, shadow_num_steps, wait_ns)
        record = StepRecord(step_index, batch_size, context_tokens, waiting_requests, decision, start_ns)
        record.control_ns = control_ns
        record.end_ns = end_ns
        record.draft_ns = draft_ns
        record.verify_ns = verify_ns
        record.draft_extend_ns = draft_extend_ns
        record.num_steps = num_steps
        record.previous_num_steps = previous_num_steps
        at += _RECORD.size
        record.accepted_drafts = list(self._bytes[at : at + batch_size])
        record.first_step = [flag != 0 for flag in self._bytes[at + batch_size : at + 2 * batch_size]]
        record.after_full_accept = [
            flag != 0 for flag in self._bytes[at + 2 * batch_size : at + 3 * batch_size]
        ]
        return record


def _aligned(size: int) -> int:
    return (size + WORD - 1) // WORD * WORD
