"""The table that a person reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from control_service.replay.plan import FIXED, ORACLES
from control_service.replay.summary import Row

_COLUMNS = (
    "cell", "policy", "tokens/s", "/best\nfixed", "expec-\nted", "/clair-\nvoyant", "/perfect\nmodels",
    "switches\n/1000", "probe\nsteps %", "probing\nlost %", "cold st.\nlost %", "steady\nlost %",
    "time\nerror %", "accept.\nerror", "recovery\ns",
)  # fmt: skip
_LEFT = frozenset({"cell", "policy"})


def cell_table(rows: Sequence[Row], *, every_fixed: bool) -> Table:
    """A line a cell and policy; of the fixed lengths only the best, unless all are wanted."""
    table = Table(title="Replay: tokens/s, medians over the seeds", title_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    before = ""
    for row in rows:
        if _hidden(row) and not every_fixed:
            continue
        cell = _cell(row)
        if before not in ("", cell):
            table.add_section()
        table.add_row("" if before == cell else cell, *_fields(row))
        before = cell
    return table


def phase_table(rows: Sequence[Row], traces: Sequence[str]) -> Table:
    """A line a phase, a column a policy: the ratio to the best fixed length of that phase."""
    shown = [row for row in rows if not _hidden(row)]
    title = f"{rows[0].drafter}, by phase: ratio to the best fixed length of the phase (and by expectation)"
    table = Table(title=title, title_justify="left")
    for name in ("phase", "concurrency", "trace", "best fixed"):
        table.add_column(name, justify="right")
    for row in shown:
        table.add_column(row.policy, justify="right")
    for place, phase in enumerate(shown[0].phases):
        ratios = (
            f"{mine.ratio_to_best_fixed:.3f} ({mine.expected_ratio:.3f})"
            for mine in (row.phases[place] for row in shown)
        )
        name = traces[phase.group]
        table.add_row(str(place + 1), str(phase.concurrency), name, str(phase.best_fixed), *ratios)
    return table


def _hidden(row: Row) -> bool:
    return row.policy.startswith(f"{FIXED}:") and row.policy != f"{FIXED}:{row.best_fixed}"


def _cell(row: Row) -> str:
    phases = len(row.phases)
    return f"{row.trace} {row.drafter} {row.concurrency if phases == 1 else f'{phases} phases'}"


def _fields(row: Row) -> list[str]:
    bound = row.policy in ORACLES
    decides = not row.policy.startswith(f"{FIXED}:") and not bound
    return [
        row.policy,
        f"{row.tokens_per_s:.1f}",
        f"{row.ratio_to_best_fixed:.4f}",
        "-" if bound else f"{row.expected_ratio:.4f}",
        f"{row.ratio_to_clairvoyant:.4f}",
        f"{row.ratio_to_perfect_models:.4f}",
        f"{row.switches_per_1000_steps:.1f}" if decides else "-",
        f"{100 * row.probe_step_share:.2f}" if decides else "-",
        f"{100 * row.probe_lost_share:.2f}" if decides else "-",
        f"{100 * row.cold_start_lost_share:.2f}" if decides else "-",
        "-" if bound else f"{100 * row.steady_lost_share:.2f}",
        _number(100 * row.step_time_error, 2),
        _number(row.acceptance_error, 3),
        " ".join(_recovery(time_s) for time_s in row.recoveries_s) if decides else "-",
    ]


def _recovery(time_s: float) -> str:
    return "never" if math.isnan(time_s) else f"{time_s:.1f}"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
