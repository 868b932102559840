"""What a step makes of the lease on the board.

A step that finds no valid lease may wait, at most the step deadline, and only if the
answer before it came in time: a service that is dead, slow or wrong costs one deadline,
then nothing, until one of its answers is ready when it is wanted.
"""

from __future__ import annotations

from typing import Final

from sglang_patch.board import Board
from sglang_patch.clock import Clock
from sglang_patch.decision import (
    DEADLINE,
    DISCONNECTED,
    FALLBACK,
    LAUNCH_LENGTH,
    LEASE,
    NO_REASON,
    OVERDUE,
    Decision,
)
from sglang_patch.lease import applies
from turbospec.v1.control_pb2 import MODE_ENFORCE, MODE_OFF

NS_PER_US: Final = 1_000
# Between two looks at the board while a step waits.
LOOK_S: Final = 50e-6


class Mailbox:
    """The step thread's reading of the board."""

    def __init__(
        self, board: Board, *, launch_num_steps: int, step_deadline_us: int, obey: bool, clock: Clock
    ) -> None:
        self._board = board
        # What a step runs with that does not obey: the launch length.
        self._held = Decision(launch_num_steps, LAUNCH_LENGTH)
        # Told not to obey, the launch length is held and leases are only recorded; such a step never waits.
        self._obey = obey
        self._deadline_ns = step_deadline_us * NS_PER_US
        self._clock = clock
        # Cleared by a miss, set by an answer that was there when it was wanted.
        self._patient = True

    def at_hand(self, step_index: int, batch_size: int, now_ns: int) -> Decision | None:
        """The decision of a lease that is here and valid: the path of nearly every step."""
        lease = self._board.lease(batch_size)
        if lease is None:
            return None
        decision_id, first_step, last_step, expires_ns, mode, percent, length = lease
        if not first_step <= step_index <= last_step or now_ns >= expires_ns:
            return None
        self._patient = True
        if self._obey and (mode == MODE_ENFORCE or applies(mode, percent, step_index)):
            return Decision(length, LEASE, NO_REASON, decision_id)
        shadow = -1 if mode == MODE_OFF else length
        return self._held._replace(decision_id=decision_id, shadow_num_steps=shadow)

    def wait(self, step_index: int, batch_size: int, now_ns: int) -> Decision:
        """No valid lease was at hand: wait for one if that may help, else do not speculate."""
        if not self._obey:
            return self._held
        if not self._board.connected():
            self._patient = False
            return Decision(0, FALLBACK, DISCONNECTED)
        if not self._patient or not self._deadline_ns:
            return Decision(0, FALLBACK, OVERDUE)
        end_ns = now_ns
        while end_ns - now_ns < self._deadline_ns and self._board.connected():
            self._clock.sleep(LOOK_S)
            end_ns = self._clock.monotonic_ns()
            decision = self.at_hand(step_index, batch_size, end_ns)
            if decision is not None:
                return decision._replace(wait_ns=end_ns - now_ns)
        self._patient = False
        return Decision(0, FALLBACK, DEADLINE, wait_ns=end_ns - now_ns)
