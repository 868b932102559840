"""Where an answer waits for the step that needs it.

One writer (the link's thread) posts leases, one reader (the step thread) takes
decisions. The only shared state is one reference, swapped whole.

A step that finds no valid lease may wait, at most the step deadline, and only if
the answer before it came in time: a service that is dead, slow or wrong costs one
deadline, then nothing, until one of its answers is ready when it is wanted.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

from sglang_patch.clock import Clock
from sglang_patch.lease import Lease
from turbospec.v1 import telemetry
from turbospec.v1.control_pb2 import MODE_ENFORCE, MODE_OFF

# Fallback reasons: why a step ran without speculation.
DISCONNECTED: Final = "disconnected"  # no stream to the service
DEADLINE: Final = "deadline"  # waited, no valid lease came
OVERDUE: Final = "overdue"  # no valid lease, and the one before was missed too: did not wait
ERROR: Final = "error"  # our own code failed; control is off for this process

NS_PER_US: Final = 1_000


class Decision(NamedTuple):
    """What one step will run with, and where that came from."""

    num_steps: int
    source: str
    reason: str = ""
    decision_id: int = 0
    shadow_num_steps: int = -1
    wait_ns: int = 0


class Mailbox:
    """Holds the newest lease of a link that is up."""

    def __init__(self, *, launch_num_steps: int, step_deadline_us: int, obey: bool, clock: Clock) -> None:
        # What a step runs with that does not obey: the launch length.
        self._held = Decision(launch_num_steps, telemetry.SOURCE_LAUNCH_LENGTH)
        # Told not to obey, the launch length is held and leases are only recorded; such a step never waits.
        self._obey = obey
        self._deadline_ns = step_deadline_us * NS_PER_US
        self._clock = clock
        self._lease: Lease | None = None
        self._connected = False
        self._arrived = threading.Event()
        # Cleared by a miss, set by an answer that was there when it was wanted.
        self._patient = True

    # -- the link's side -----------------------------------------------------

    def connected(self) -> None:
        self._connected = True

    def disconnected(self) -> None:
        """The stream is gone, and with it every promise it carried."""
        self._connected = False
        self._lease = None
        self._arrived.set()

    def post(self, lease: Lease) -> None:
        self._lease = lease
        self._arrived.set()

    # -- the step thread's side ----------------------------------------------

    def at_hand(self, step_index: int, batch_size: int, now_ns: int) -> Decision | None:
        """The decision of a lease that is here and valid: the path of nearly every step."""
        lease = self._lease
        if (
            lease is None
            or not lease.first_step <= step_index <= lease.last_step
            or now_ns >= lease.expires_ns
        ):
            return None
        self._patient = True
        return self._decision(lease, step_index, batch_size)

    def wait(self, step_index: int, batch_size: int, now_ns: int) -> Decision:
        """No valid lease was at hand: wait for one if that may help, else do not speculate."""
        wait_ns = 0
        if self._obey and self._connected and self._patient and self._deadline_ns:
            wait_ns = self._wait(step_index, now_ns)
            decision = self.at_hand(step_index, batch_size, now_ns + wait_ns)
            if decision is not None:
                return decision._replace(wait_ns=wait_ns)
        if not self._obey:
            return self._held
        reason = (DEADLINE if wait_ns else OVERDUE) if self._connected else DISCONNECTED
        self._patient = False
        return Decision(0, telemetry.SOURCE_FALLBACK, reason, wait_ns=wait_ns)

    def _decision(self, lease: Lease, step_index: int, batch_size: int) -> Decision:
        if lease.mode == MODE_OFF:
            return self._held._replace(decision_id=lease.decision_id)
        length = lease.length_for(batch_size)
        if self._obey and (lease.mode == MODE_ENFORCE or lease.applies_to(step_index)):
            return Decision(length, telemetry.SOURCE_LEASE, "", lease.decision_id)
        return self._held._replace(decision_id=lease.decision_id, shadow_num_steps=length)

    def _wait(self, step_index: int, start_ns: int) -> int:
        """Wait until a lease covers the step, the link is lost or the deadline has passed.

        Returns:
            Nanoseconds waited, at least 1.
        """
        deadline_ns = start_ns + self._deadline_ns
        while True:
            self._arrived.clear()
            lease = self._lease
            now_ns = self._clock.monotonic_ns()
            if not self._connected or now_ns >= deadline_ns:
                break
            if lease is not None and lease.covers(step_index, now_ns):
                break
            self._arrived.wait((deadline_ns - now_ns) / 1e9)
        return max(1, now_ns - start_ns)
