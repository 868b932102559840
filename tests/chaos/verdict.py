"""What must hold of every outcome, whatever the fault: what the table warns of and the tests assert."""

from __future__ import annotations

from typing import Any

from tests.chaos.fault import Fault
from tests.chaos.outcome import Outcome


def failures(outcome: Outcome, fault: Fault[Any]) -> list[str]:
    """What is wrong; empty if nothing is."""
    ledger = outcome.ledger
    checks = (
        (outcome.requests_lost == 0, f"{outcome.requests_lost} requests were lost"),
        (not outcome.differences, "; ".join(outcome.differences[:3])),
        (ledger.adds_up, f"{ledger.steps} steps, but {ledger.by_origin}"),
        (
            ledger.unaccounted == 0 or fault.kills_witness,
            f"{ledger.steps} steps, but {ledger.received} records and {ledger.dropped} said to be dropped",
        ),
        (outcome.until_control_steps is not None, "control did not come back"),
        (
            fault.falls_back is not True or outcome.until_fallback_steps is not None,
            "no step fell back, so the fault did nothing",
        ),
        (
            fault.falls_back is not False or outcome.until_fallback_steps is None,
            f"step {outcome.until_fallback_steps} fell back",
        ),
    )
    return [what for holds, what in checks if not holds]
