"""What one step will run with, and where that came from."""

from __future__ import annotations

from typing import Final, NamedTuple

# Fallback reasons: why a step ran without speculation.
DISCONNECTED: Final = "disconnected"  # no stream to the service
DEADLINE: Final = "deadline"  # waited, no valid lease came
OVERDUE: Final = "overdue"  # no valid lease, and the one before was missed too: did not wait
ERROR: Final = "error"  # our own code failed; control is off for this process


class Decision(NamedTuple):
    """A length and its origin. ``shadow_num_steps`` is what was decided but not applied, -1 for nothing."""

    num_steps: int
    source: str
    reason: str = ""
    decision_id: int = 0
    shadow_num_steps: int = -1
    wait_ns: int = 0
