"""What a step makes of the lease on the board.

A step that finds no valid lease may wait, at most the step deadline, and only if the
answer before it came in time: a service that is dead, slow or wrong costs one deadline,
then nothing, until one of its answers is ready when it is wanted. Once too many steps
were missed, the breaker opens and leases are not even looked at until it is closed.
"""

from __future__ import annotations

from typing import Final

from sglang_patch.board import Board, Reading
from sglang_patch.breaker import StepBreaker
from sglang_patch.clock import Clock
from sglang_patch.decision import (
    BREAKER,
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
from sglang_patch.link_state import CONNECTING, STALE
from sglang_patch.modes import ENFORCE, EngineMode
from turbospec.v1.control_pb2 import MODE_ENFORCE, MODE_OFF

NS_PER_US: Final = 1_000
# Between two looks at the board while a step waits.
LOOK_S: Final = 50e-6

_BREAKER_OPEN: Final = Decision(0, FALLBACK, BREAKER)


class Mailbox:
    """The step thread's reading of the board."""

    def __init__(
        self, board: Board, *, launch_num_steps: int, step_deadline_us: int, mode: EngineMode, clock: Clock
    ) -> None:
        self._board = board
        # What a step runs with that does not obey: the launch length.
        self._held = Decision(launch_num_steps, LAUNCH_LENGTH)
        self._deadline_ns = step_deadline_us * NS_PER_US
        self._clock = clock
        self._breaker = StepBreaker(board)
        # Cleared by a miss, set by an answer that was there when it was wanted.
        self._patient = True
        # The reading that was obeyed last, and the decision made of it: most steps meet it again.
        self._obeyed: Reading | None = None
        self._decision = self._held
        self.set_mode(mode)

    def set_mode(self, mode: EngineMode) -> None:
        """The engine's own mode; any thread may set it."""
        # None where the engine obeys every lease that says so: then only the service's mode is looked at.
        self._careful = None if mode == ENFORCE else mode

    def at_hand(self, step_index: int, batch_size: int, now_ns: int) -> Decision | None:
        """The decision of a lease that is here and valid: the path of nearly every step."""
        breaker = self._breaker
        if breaker.open:
            return None
        lease = self._board.lease(batch_size)
        if lease is None:
            return None
        decision_id, first_step, last_step, expires_ns, mode, percent, length = lease
        if not first_step <= step_index <= last_step or now_ns >= expires_ns:
            return None
        careful = self._careful
        if lease is self._obeyed and careful is None:
            return self._decision
        self._patient = True
        if breaker.misses:
            breaker.hit()
        if (careful is None or careful.obeys(step_index)) and (
            mode == MODE_ENFORCE or applies(mode, percent, step_index)
        ):
            decision = Decision(length, LEASE, NO_REASON, decision_id)
            if careful is None and mode == MODE_ENFORCE and not breaker.misses:
                self._obeyed, self._decision = lease, decision
            return decision
        off = mode == MODE_OFF or (careful is not None and careful.code == MODE_OFF)
        return self._held._replace(decision_id=decision_id, shadow_num_steps=-1 if off else length)

    def wait(self, step_index: int, batch_size: int, now_ns: int) -> Decision:
        """No valid lease was at hand: wait for one if that may help, else do not speculate."""
        breaker = self._breaker
        if breaker.open and breaker.closed():
            decision = self.at_hand(step_index, batch_size, now_ns)
            if decision is not None:
                return decision
        careful = self._careful
        if careful is not None and not careful.obeys(step_index):
            # The launch length is held and leases are only recorded: such a step never waits.
            return self._held
        if not self._board.connected():
            self._patient = False
            return Decision(0, FALLBACK, DISCONNECTED)
        if breaker.open:
            return _BREAKER_OPEN
        # A stale link is known to be late: no step need find that out anew, not even the first after a pause.
        state = self._board.link_state()
        if not self._patient or not self._deadline_ns or state == STALE:
            self._miss(state)
            return Decision(0, FALLBACK, OVERDUE)
        end_ns = now_ns
        while end_ns - now_ns < self._deadline_ns and self._board.connected():
            self._clock.sleep(LOOK_S)
            end_ns = self._clock.monotonic_ns()
            decision = self.at_hand(step_index, batch_size, end_ns)
            if decision is not None:
                return decision._replace(wait_ns=end_ns - now_ns)
        self._patient = False
        self._miss(state)
        return Decision(0, FALLBACK, DEADLINE, wait_ns=end_ns - now_ns)

    def _miss(self, state: int) -> None:
        # A new stream is given the time for its first answer, however fast the steps are.
        if state != CONNECTING:
            self._breaker.miss()
