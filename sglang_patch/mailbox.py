"""What a step makes of the lease on the board.

A step that finds no valid lease may wait, at most the step deadline, and only if the
answer before it came in time: a service that is dead, slow or wrong costs one deadline,
then nothing, until one of its answers is ready when it is wanted.
"""

from __future__ import annotations

from typing import Final

from sglang_patch.board import Board
from sglang_patch.clock import Clock
from sglang_patch.decision import DEADLINE, DISCONNECTED, OVERDUE, Decision
from sglang_patch.lease import Lease
from turbospec.v1 import telemetry
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
        self._held = Decision(launch_num_steps, telemetry.SOURCE_LAUNCH_LENGTH)
        # Told not to obey, the launch length is held and leases are only recorded; such a step never waits.
        self._obey = obey
        self._deadline_ns = step_deadline_us * NS_PER_US
        self._clock = clock
        # Cleared by a miss, set by an answer that was there when it was wanted.
        self._patient = True

    def at_hand(self, step_index: int, batch_size: int, now_ns: int) -> Decision | None:
        """The decision of a lease that is here and valid: the path of nearly every step."""
        lease = self._board.lease()
        if lease is None or not lease.covers(step_index, now_ns):
            return None
        self._patient = True
        return self._decision(lease, step_index, batch_size)

    def wait(self, step_index: int, batch_size: int, now_ns: int) -> Decision:
        """No valid lease was at hand: wait for one if that may help, else do not speculate."""
        if not self._obey:
            return self._held
        if self._board.lease() is None:
            self._patient = False
            return Decision(0, telemetry.SOURCE_FALLBACK, DISCONNECTED)
        if not self._patient or not self._deadline_ns:
            return Decision(0, telemetry.SOURCE_FALLBACK, OVERDUE)
        end_ns = now_ns
        while end_ns - now_ns < self._deadline_ns:
            self._clock.sleep(LOOK_S)
            end_ns = self._clock.monotonic_ns()
            decision = self.at_hand(step_index, batch_size, end_ns)
            if decision is not None:
                return decision._replace(wait_ns=end_ns - now_ns)
            if self._board.lease() is None:
                break
        self._patient = False
        return Decision(0, telemetry.SOURCE_FALLBACK, DEADLINE, wait_ns=end_ns - now_ns)

    def _decision(self, lease: Lease, step_index: int, batch_size: int) -> Decision:
        if lease.mode == MODE_OFF:
            return self._held._replace(decision_id=lease.decision_id)
        length = lease.length_for(batch_size)
        if self._obey and (lease.mode == MODE_ENFORCE or lease.applies_to(step_index)):
            return Decision(length, telemetry.SOURCE_LEASE, "", lease.decision_id)
        return self._held._replace(decision_id=lease.decision_id, shadow_num_steps=length)
