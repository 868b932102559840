"""What one step will run with, and where that came from."""

from __future__ import annotations

from typing import Final, NamedTuple

from turbospec.v1 import telemetry

# Sources and reasons are small numbers on the step thread; these are their names in telemetry.
SOURCE_NAMES: Final = telemetry.SOURCES
LEASE, FALLBACK, LAUNCH_LENGTH, KILL_SWITCH = range(len(SOURCE_NAMES))

# Fallback reasons: why a step ran without speculation.
REASON_NAMES: Final = (
    "",
    "disconnected",  # no stream to the service
    "deadline",  # waited, no valid lease came
    "overdue",  # no valid lease, and the one before was missed too: did not wait
    "error",  # our own code failed; control is off for this process
    "breaker",  # too many of the last steps had no valid lease: did not look for one
)
NO_REASON, DISCONNECTED, DEADLINE, OVERDUE, ERROR, BREAKER = range(len(REASON_NAMES))


class Decision(NamedTuple):
    """A length and its origin. ``shadow_num_steps`` is what was decided but not applied, -1 for nothing."""

    num_steps: int
    source: int
    reason: int = NO_REASON
    decision_id: int = 0
    shadow_num_steps: int = -1
    wait_ns: int = 0
