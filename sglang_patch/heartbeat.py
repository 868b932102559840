"""Whether the other end is still there: when to ask again, and when to give a stream up.

TCP and gRPC see a peer that is gone, not one that is stopped, and a half-open
connection looks alive for minutes. What counts here is a lease that passed the checks.
An idle engine asks nothing by itself, so the link repeats its last ask before the lease
runs out: the engine's next decode step finds a lease, and a dead stream is noticed.
Pure: the time is passed in.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MS: Final = 1_000_000
# Expected time of an answer before there was one, and the most it is taken for.
FIRST_EXPECTED_NS: Final = 20 * MS
MAX_EXPECTED_NS: Final = 250 * MS
SMOOTHING: Final = 8
# An ask is late after so many expected times, and repeated once; then the stream is given up.
REPEAT_AFTER_TIMES: Final = 8
REPEAT_AFTER_NS: Final = 250 * MS
GIVE_UP_AFTER_TIMES: Final = 32
GIVE_UP_AFTER_NS: Final = 2_000 * MS
# How long a quiet link waits before it asks again: half a lease's time, within these bounds.
SHORTEST_QUIET_NS: Final = 250 * MS
LONGEST_QUIET_NS: Final = 2_000 * MS


class Beat(Enum):
    """What the link is to do now."""

    NOTHING = 0
    ASK = 1
    GIVE_UP = 2


class Heartbeat:
    """One stream's pulse."""

    def __init__(self) -> None:
        self._expected_ns = FIRST_EXPECTED_NS
        # When the oldest ask without an answer went out.
        self._asked_ns: int | None = None
        self._repeated = False
        # When to ask if nothing has been asked by then; at once on a new stream.
        self._quiet_until_ns = 0

    @property
    def late_after_ns(self) -> int:
        return max(REPEAT_AFTER_NS, REPEAT_AFTER_TIMES * self._expected_ns)

    @property
    def give_up_after_ns(self) -> int:
        return max(GIVE_UP_AFTER_NS, GIVE_UP_AFTER_TIMES * self._expected_ns)

    def asked(self, now_ns: int) -> None:
        if self._asked_ns is None:
            self._asked_ns = now_ns
            self._repeated = False

    def answered(self, now_ns: int, valid_for_ns: int) -> None:
        """A lease that passed the checks has come; the newest ask may still be without an answer."""
        if self._asked_ns is not None:
            waited_ns = min(now_ns - self._asked_ns, MAX_EXPECTED_NS)
            self._expected_ns += (waited_ns - self._expected_ns) // SMOOTHING
        self._asked_ns = None
        self._quiet_until_ns = now_ns + min(max(valid_for_ns // 2, SHORTEST_QUIET_NS), LONGEST_QUIET_NS)

    def is_late(self, now_ns: int) -> bool:
        """Whether an ask waits for its answer for longer than it should."""
        return self._asked_ns is not None and now_ns - self._asked_ns >= self.late_after_ns

    def beat(self, now_ns: int) -> Beat:
        if self._asked_ns is None:
            return Beat.ASK if now_ns >= self._quiet_until_ns else Beat.NOTHING
        if now_ns - self._asked_ns >= self.give_up_after_ns:
            return Beat.GIVE_UP
        if self.is_late(now_ns) and not self._repeated:
            self._repeated = True
            return Beat.ASK
        return Beat.NOTHING

    def pause(self) -> None:
        """Nobody wants an answer for now; the one still due is not waited for."""
        self._asked_ns = None
