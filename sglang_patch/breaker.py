"""The breaker: it opens when half of the last 50 steps that wanted a lease got none.

A missed deadline ends the waiting until an answer is in time again (``Mailbox``). A
service that answers every other step would earn that trust anew each time, and the
engine would flap between two lengths and pay a deadline at every other step. The
breaker ends that. Steps without a stream, or before its first answer, do not count:
they do not flap, and the link sees to the stream.

It has two halves, so that each word on the board has one writer. The step thread
counts misses and opens it. The agent closes it: while it is open the agent asks
seldom, checks the answers as ever, and closes it once most of the last few were in
time: a run without a single late one is more than a busy machine gives.
"""

from __future__ import annotations

from typing import Final

from sglang_patch.board import Board

WINDOW_STEPS: Final = 50
OPENS_AT_MISSES: Final = WINDOW_STEPS // 2
# A healthy service closes it in 0.6 s.
WINDOW_PROBES: Final = 8
CLOSES_AT_ANSWERS: Final = 6
PROBE_INTERVAL_NS: Final = 100_000_000

_WINDOW: Final = (1 << WINDOW_STEPS) - 1
_PROBES: Final = (1 << WINDOW_PROBES) - 1


class StepBreaker:
    """The step thread's half: a bit a step, the newest lowest."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.open = False
        # 0 while all is well, so that a step need not even shift it.
        self.misses = 0

    def hit(self) -> None:
        """A step that wanted a lease had one."""
        self.misses = self.misses << 1 & _WINDOW

    def miss(self) -> None:
        """A step that wanted a lease had none, though there is a stream."""
        self.misses = (self.misses << 1 | 1) & _WINDOW
        if self.misses.bit_count() >= OPENS_AT_MISSES:
            self.open = True
            self._board.open_breaker()

    def closed(self) -> bool:
        """Whether an open breaker has been closed by the agent since; it starts with a clean record then."""
        if self._board.breaker_open():
            return False
        self.open = False
        self.misses = 0
        return True


class Probation:
    """The agent's half while the breaker is open. Pure: the time is passed in."""

    def __init__(self) -> None:
        # A bit a probe, the newest lowest: whether its answer was in time.
        self._in_time = 0
        self._asked_ns: int | None = None
        self._step_index = 0
        self._answered = True

    def due(self, now_ns: int) -> bool:
        """Whether it is time to ask again."""
        return self._asked_ns is None or now_ns - self._asked_ns >= PROBE_INTERVAL_NS

    def asked(self, step_index: int, now_ns: int) -> None:
        if not self._answered:
            self._probed(in_time=False)
        self._asked_ns, self._step_index, self._answered = now_ns, step_index, False

    def answered(self, step_index: int, now_ns: int, budget_ns: int) -> bool:
        """A lease from ``step_index`` on has come; ``budget_ns`` is what a step could have waited for it.

        Returns whether enough were in time to close the breaker.
        """
        if self._answered or self._asked_ns is None or step_index < self._step_index:
            return False
        self._answered = True
        self._probed(in_time=now_ns - self._asked_ns <= budget_ns)
        return self._in_time.bit_count() >= CLOSES_AT_ANSWERS

    def reset(self) -> None:
        """The breaker is closed, or the stream is another one."""
        self._in_time, self._asked_ns, self._answered = 0, None, True

    def _probed(self, *, in_time: bool) -> None:
        self._in_time = (self._in_time << 1 | in_time) & _PROBES
