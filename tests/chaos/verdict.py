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
            not fault.must_lose_control or outcome.until_loss_steps is not None,
            "no step was without control, so the fault did nothing",
        ),
    )
    return [what for holds, what in checks if not holds]
