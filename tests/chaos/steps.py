"""Decode steps as the engine itself noted them, and as its telemetry told them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sglang_patch.decision import REASON_NAMES, SOURCE_NAMES
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry as names

# Step index, start, our time, waiting time (nanoseconds), length, accepted drafts in all, source, reason.
_NOTE: Final = struct.Struct("=4Q2i2B")
NOTE_BYTES: Final = _NOTE.size
# So many steps by lease in a row are control again, not a flicker of it.
STEADY_STEPS: Final = 30


class Step(NamedTuple):
    """One decode step. ``start_ns`` is monotonic if the engine noted it, Unix time if a span told it."""

    number: int
    start_ns: int
    # Time that control took on the step thread, waiting for a lease included.
    control_us: float
    num_steps: int
    accepted: int
    source: str
    # Empty unless the source is fallback.
    reason: str

    @property
    def led(self) -> bool:
        return self.source == names.SOURCE_LEASE

    @property
    def fell_back(self) -> bool:
        return self.source == names.SOURCE_FALLBACK

    @property
    def origin(self) -> str:
        return f"{self.source} {self.reason}".strip()


def note(record: StepRecord) -> bytes:
    """A finished step, as the engine process writes it down."""
    decision = record.decision
    return _NOTE.pack(
        record.step_index,
        record.start_ns,
        record.control_ns,
        decision.wait_ns,
        record.num_steps,
        sum(record.accepted_drafts),
        decision.source,
        decision.reason,
    )


def read_notes(content: bytes) -> list[Step]:
    """Every complete note."""
    whole = len(content) // NOTE_BYTES * NOTE_BYTES
    return [
        Step(
            index,
            start_ns,
            (control_ns + wait_ns) / 1e3,
            num_steps,
            accepted,
            SOURCE_NAMES[source],
            REASON_NAMES[reason],
        )
        for index, start_ns, control_ns, wait_ns, num_steps, accepted, source, reason in _NOTE.iter_unpack(
            content[:whole]
        )
    ]


def read_spans(spans: Iterable[dict[str, Any]]) -> list[Step]:
    """Steps as told by spans; one that came twice counts once."""
    steps = {
        span[names.STEP_INDEX]: Step(
            span[names.STEP_INDEX],
            span["start_ns"],
            span[names.CONTROL_US] + span[names.DECISION_WAIT_US],
            span[names.NUM_STEPS],
            sum(span[names.ACCEPTED_DRAFTS]),
            span[names.DECISION_SOURCE],
            span.get(names.FALLBACK_REASON, ""),
        )
        for span in spans
    }
    return [steps[index] for index in sorted(steps)]


def until_loss(steps: Sequence[Step], from_ns: int) -> int | None:
    """Which step begun from a moment on is the first without control, counted from 1; None: none is."""
    after = (step for step in steps if step.start_ns >= from_ns)
    return next((count for count, step in enumerate(after, 1) if not step.led), None)


def until_control(steps: Sequence[Step], from_ns: int) -> int | None:
    """Which step begun from a moment on is the first of steady control, counted from 1; None: none is yet."""
    run = 0
    for count, step in enumerate((step for step in steps if step.start_ns >= from_ns), 1):
        run = run + 1 if step.led else 0
        if run == STEADY_STEPS:
            return count - STEADY_STEPS + 1
    return None
