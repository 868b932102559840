"""Tables of a benchmark's results, for the terminal and for documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.console import Console
from rich.markup import escape

from benchmarks.control_stats import control_stats
from benchmarks.results import BenchResult, Cell, Quantiles
from benchmarks.spread import Spread, over_cells, percentile
from benchmarks.stats import CellStats, VariantStats, cell_stats
from benchmarks.variants import VariantKind
from benchmarks.workload import LoadKind

ABSENT = "-"
WIDTH_WITHOUT_TERMINAL = 200
NOTES = (
    "tok/s is goodput: committed output tokens per second. Where fixed lengths are arms of our server it is "
    "of decode steps, from launch to launch, counted inside the schedulers, texts evened out: a step counts "
    "the mean tokens of all steps of its batch size and length, whoever chose it. Else it is what clients "
    "received in their window.",
    "The mean over the starts, each start's rounds taken together [95 % confidence over the starts]; of one "
    "start the median of its rounds, or of tenths of its slices. Between arms of one server: all taken "
    "together [95 % confidence over the tenths].",
    "Ratios are taken of what ran at the same times, start by start, then as above; "
    "best fixed is the fixed length with the highest goodput in that cell, known only afterwards.",
    "A fixed length that the best one beats by 2 % or more with 95 % confidence has no more turns in that "
    "cell; its numbers are of the sweeps before.",
    "Step time at equal length: a step under control over one at the same length in a fixed arm, of the same "
    "batch size; what is left of ours / best fixed is the choice. Geometric mean: each cell one observation.",
    "TPOT: seconds per token of an answer; in arms of the part that the arm served. ITL: gap between two "
    "chunks of an answer, each with one token or more. TTFT: from sending to the first chunk. Milliseconds.",
    "control: microseconds of an engine's life so far; of several starts, that with the highest p99.",
    "accepted: tokens a request commits per decode step. "
    "equal: outputs identical to nospec's for the same prompt (knob models: fp32, greedy); arms share the "
    "answers of the server under control.",
)


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows and columns, not yet drawn."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def to_markdown(self) -> str:
        """A table with the title as a bold line above it."""
        lines = [
            f"**{self.title}**",
            "",
            _markdown_row(self.columns),
            _markdown_row(("---",) * len(self.columns)),
        ]
        return "\n".join([*lines, *(_markdown_row(row) for row in self.rows)])

    def to_rich(self) -> rich.table.Table:
        table = rich.table.Table(title=escape(self.title), box=rich.box.SIMPLE_HEAD, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(escape(column), justify="left" if number == 0 else "right", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table


def tables(result: BenchResult) -> list[Table]:
    """The summary, then each cell's speed and what control did in it."""
    cells = [cell_stats(cell) for cell in result.cells if cell.runs]
    controls = [table for cell in result.cells if (table := control_table(cell))]
    return [summary_table(cells), *(speed_table(cell) for cell in cells), *controls]


def summary_table(cells: list[CellStats]) -> Table:
    """One line per cell: what ours is worth against what a user could have had."""
    columns = (
        "cell",
        "best fixed",
        "best fixed / nospec",
        "turbospec / best fixed",
        "the same, tokens as they came",
        "step time at equal length",
        "turbospec / nospec",
        "turbospec / better of both",
        "adaptive / best fixed",
    )
    ratios = [_ratios(stats) for stats in cells]
    names = [(cell_name(s.cell), s.best_fixed.label if s.best_fixed else ABSENT) for s in cells]
    if len(cells) > 1:
        ratios.append([over_cells(column) for column in zip(*ratios, strict=True)])
        names.append(("geometric mean", ABSENT))
    rows = [(*name, *(_spread(ratio, 3) for ratio in line)) for name, line in zip(names, ratios, strict=True)]
    return Table("summary: goodput ratios", columns, rows)


def _ratios(stats: CellStats) -> list[Spread | None]:
    """Of the summary's columns."""
    best, ours, nospec = stats.best_fixed, stats.turbospec, stats.nospec

    def ratio(one: VariantStats | None, other: VariantStats | None, *, even: bool = True) -> Spread | None:
        return one.ratio_to(other, evened=even) if one and other else None

    return [
        ratio(best, nospec),
        ratio(ours, best),
        ratio(ours, best, even=False) if stats.cell.slices else None,
        stats.step_time_ratio,
        ratio(ours, nospec),
        ratio(ours, stats.best_plain),
        ratio(stats.variants.get(VariantKind.ADAPTIVE), best),
    ]


def speed_table(stats: CellStats) -> Table:
    """One line per variant."""
    columns = (
        "variant",
        "tok/s",
        "/ best fixed",
        "/ nospec",
        "TPOT p50/95/99",
        "ITL p50/95/99",
        "TTFT p50/95",
        "accepted",
        "equal",
    )
    rows = [
        (
            variant.label,
            _spread(variant.goodput, 1),
            _ratio(variant, stats.best_fixed),
            _ratio(variant, stats.nospec),
            _milliseconds(variant.tpot_s, (50, 95, 99)),
            _milliseconds(variant.itl_s, (50, 95, 99)),
            _milliseconds(variant.ttft_s, (50, 95)),
            _number(variant.mean_accepted_length, 2),
            _equality(stats.cell, variant),
        )
        for variant in stats.variants.values()
    ]
    return Table(cell_name(stats.cell), columns, rows)


def control_table(cell: Cell) -> Table | None:
    """What the service and the plugin did in `cell`; None if ours did not run in it."""
    stats = control_stats([run for run in cell.runs if run.variant == VariantKind.TURBOSPEC])
    if stats is None:
        return None
    rows = [
        ("decode steps", str(stats.steps)),
        ("accepted length, by the service", _number(stats.mean_accepted_length, 2)),
        ("switches per 1,000 steps", _number(stats.switches_per_1000_steps, 1)),
        ("share of steps by length", _shares(stats.share_by_num_steps)),
        ("share of steps by source", _shares(stats.share_by_source)),
        ("fallbacks by reason", _counts(stats.fallbacks_by_reason)),
        ("dropped telemetry by cause", _counts(stats.drops_by_cause)),
        ("control on the step thread, us p50/p99/max", _quantiles(stats.step_control_us)),
        ("wait for a decision, us p50/p99/max", _quantiles(stats.decision_wait_us)),
        ("service's answer, us p50/p99/max", _quantiles(stats.answer_us)),
    ]
    return Table(f"control: {cell_name(cell)}", ("measure", "value"), rows)


def cell_name(cell: Cell) -> str:
    """For people: model, algorithm, load and clients."""
    clients = "1 client" if cell.clients == 1 else f"{cell.clients} clients"
    return f"{cell.model} {cell.algorithm}, {cell.load} load, {clients}"


def render_markdown(result: BenchResult) -> str:
    """The whole report as markdown."""
    head = [*_header(result), "", *(f"- {note}" for note in NOTES)]
    return "\n".join(["\n".join(head), *(f"\n{table.to_markdown()}" for table in tables(result))]) + "\n"


def report_console(*, stderr: bool = False) -> Console:
    """The terminal; a file or a pipe gets lines wide enough for the tables."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)


def print_report(result: BenchResult, console: Console) -> None:
    """The whole report on a terminal."""
    for line in _header(result):
        console.print(escape(line))
    for table in tables(result):
        console.print(table.to_rich())
    for note in NOTES:
        console.print(f"[dim]{escape(note)}[/dim]")


def _header(result: BenchResult) -> list[str]:
    env = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in env.versions.items())
    settings = ", ".join(f"{name}={value}" for name, value in result.settings.items())
    disturbance = Spread.of(
        run.foreign_cores for cell in result.cells for run in cell.runs if run.foreign_cores is not None
    )
    return [
        f"{env.started_at}, commit {env.git_commit}, {env.accelerator}: {env.cpu_model}, {env.cores} cores, "
        f"{env.memory_gib:.0f} GiB; Python {env.python}, {versions}",
        f"settings: {settings}",
        f"cores that others kept busy, median of the turns [95 % confidence]: {_spread(disturbance, 2)}",
    ]


def _equality(cell: Cell, variant: VariantStats) -> str:
    if cell.load is not LoadKind.KNOB or not cell.model.startswith("knob") or not variant.outputs_compared:
        return ABSENT
    return f"{variant.outputs_equal}/{variant.outputs_compared}"


def _ratio(ours: VariantStats | None, other: VariantStats | None) -> str:
    if ours is None or other is None:
        return ABSENT
    return _spread(ours.ratio_to(other), 3) if ours is not other else "1"


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ABSENT
    return f"{spread.middle:.{digits}f} [{spread.low:.{digits}f}..{spread.high:.{digits}f}]"


def _milliseconds(values_s: list[float], percents: tuple[int, ...]) -> str:
    return " / ".join(
        _number(None if (value := percentile(values_s, percent)) is None else value * 1000, 1)
        for percent in percents
    )


def _number(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _quantiles(quantiles: Quantiles) -> str:
    return f"{quantiles.p50:.0f} / {quantiles.p99:.0f} / {quantiles.max:.0f} (of {quantiles.count})"


def _shares(shares: Mapping[int, float] | Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {share:.1%}" for name, share in shares.items()) or ABSENT


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "none"


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
