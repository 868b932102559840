"""Outcomes as a table for the terminal, for a document, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.results import Environment
from tests.chaos.outcome import Outcome

FORMAT_VERSION: Final = 1
COLUMNS: Final = (
    "fault",
    "engine",
    "added p50, us",
    "added p99, us",
    "until control is lost, steps",
    "until control, steps (ms)",
    "steps by origin during and around it",
    "records lost: told, untold",
    "requests lost",
    "outputs",
)
HOW: Final = (
    "Added: time that control took on the step thread, waiting included, from the fault's beginning to its"
    " end, less that of the same engine's quiet steps right before and after. The loss of control counts from"
    " the fault's beginning, control (30 steps by lease in a row) from its end."
)


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    return [
        [
            outcome.fault,
            outcome.engine,
            f"{outcome.added_p50_us:+.0f}",
            f"{outcome.added_p99_us:+.0f}",
            _count(outcome.until_loss_steps),
            _control(outcome),
            _ledger(outcome),
            f"{outcome.ledger.dropped}, {outcome.ledger.unaccounted}",
            str(outcome.requests_lost),
            outputs(outcome),
        ]
        for outcome in outcomes
    ]


def terminal(outcomes: Sequence[Outcome]) -> Table:
    table = Table(*COLUMNS, caption=HOW, caption_justify="left", show_lines=True)
    for row in rows(outcomes):
        table.add_row(*row)
    return table


def markdown(outcomes: Sequence[Outcome]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows(outcomes)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{HOW}\n"


def write_json(path: Path, outcomes: Sequence[Outcome], environment: Environment) -> None:
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "environment": environment.model_dump(mode="json"),
        "outcomes": [outcome.as_json() for outcome in outcomes],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def outputs(outcome: Outcome) -> str:
    good = "token ids equal" if outcome.engine == "SGLang" else "consistent"
    return good if not outcome.differences else f"{len(outcome.differences)} differences"


def _count(steps: int | None) -> str:
    return "none" if steps is None else str(steps)


def _control(outcome: Outcome) -> str:
    if outcome.until_control_steps is None:
        return "never"
    when = f"{outcome.until_control_steps} ({outcome.until_control_ms:.0f})"
    return f"{when}, after {outcome.rescue}" if outcome.rescue else when


def _ledger(outcome: Outcome) -> str:
    ledger = outcome.ledger
    parts = " + ".join(f"{count} {origin}" for origin, count in ledger.by_origin.items())
    return f"{ledger.steps} {'=' if ledger.adds_up else '!='} {parts}"
