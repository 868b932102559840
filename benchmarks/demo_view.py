"""What the demo shows: the load as it moves, one row a phase, and the comparison at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from benchmarks.admin import mode_name
from benchmarks.report import ABSENT, Table
from benchmarks.spread import Spread
from benchmarks.stats import CellStats
from benchmarks.variants import Variant, VariantKind
from turbospec.v1 import admin_pb2

LINE_EVERY_S = 4.0
COLUMNS = (
    "load",
    "clients",
    "seconds",
    "steps/s",
    "length now",
    "steps by length",
    "acceptance",
    "tokens/step",
    "tok/s",
    "mode",
    "policy",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The engine's status and the clients' count of tokens at one moment, in seconds of a monotonic clock."""

    at_s: float
    tokens: int
    status: admin_pb2.EngineStatus


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of steady load; rates are means over it, `length now` is the newest step's."""

    load: str
    clients: int
    first: Reading
    last: Reading

    @property
    def seconds(self) -> float:
        return self.last.at_s - self.first.at_s

    @property
    def tokens_per_s(self) -> float:
        return (self.last.tokens - self.first.tokens) / self.seconds if self.seconds > 0 else 0.0

    def row(self) -> tuple[str, ...]:
        """One text for each of `COLUMNS`."""
        before, now = self.first.status, self.last.status
        steps = now.steps_total - before.steps_total
        drafts = now.draft_tokens_total - before.draft_tokens_total
        accepted = now.accepted_tokens_total - before.accepted_tokens_total
        committed = now.committed_tokens_total - before.committed_tokens_total
        by_length = Counter(dict(now.steps_by_num_steps)) - Counter(dict(before.steps_by_num_steps))
        return (
            self.load,
            str(self.clients),
            f"{self.seconds:.0f}",
            f"{steps / self.seconds:.1f}" if self.seconds > 0 else ABSENT,
            str(now.num_steps),
            " ".join(f"{k}:{n / steps:.0%}" for k, n in sorted(by_length.items())) if steps else ABSENT,
            f"{accepted / drafts:.0%}" if drafts else ABSENT,
            # Every request of a step commits one token beside its accepted drafts.
            f"{committed / (committed - accepted):.2f}" if committed > accepted else ABSENT,
            f"{self.tokens_per_s:.1f}",
            mode_name(now.mode),
            now.policy,
        )


class Screen(Protocol):
    """Where the phases are shown while they run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, phases: list[Phase]) -> None:
        """Called about once a second; the last phase is the one that runs."""


class LiveScreen:
    """A table that is drawn over itself."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, phases: list[Phase]) -> None:
        table = Table("a load that moves", COLUMNS, [phase.row() for phase in phases])
        self._live.update(table.to_rich(), refresh=True)


class LineScreen:
    """For pipes and files: a line every few seconds, and one at the end of each phase."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: Phase | None = None
        self._said_at_s = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._say_end()

    def show(self, phases: list[Phase]) -> None:
        now = phases[-1]
        if self._running is not None and self._running.first is not now.first:
            self._say_end()
        elif now.last.at_s - self._said_at_s >= LINE_EVERY_S:
            self._say(now)
        self._running = now

    def _say_end(self) -> None:
        if self._running is not None and self._running.last.at_s > self._said_at_s:
            self._say(self._running)

    def _say(self, phase: Phase) -> None:
        self._said_at_s = phase.last.at_s
        line = ", ".join(f"{name} {text}" for name, text in zip(COLUMNS, phase.row(), strict=True))
        self._console.print(line, highlight=False, markup=False)


def screen(console: Console) -> Screen:
    """Drawn over itself on a terminal, else line by line."""
    return LiveScreen(console) if console.is_terminal else LineScreen(console)


def comparison_table(cells: list[CellStats]) -> Table:
    """One line per policy: tokens/s in each load, and the ratio to length 0, paired by round."""
    columns = ["policy"]
    for stats in cells:
        columns += [f"{stats.cell.load}, {stats.cell.clients} clients: tok/s", "/ length 0"]
    labels = list(cells[0].variants)
    rows = []
    for label in labels:
        row = [policy_name(label)]
        for stats in cells:
            mine, zero = stats.variants[label], stats.variants[VariantKind.NOSPEC]
            row += [_spread(mine.goodput, 1), "1" if mine is zero else _spread(mine.ratio_to(zero), 2)]
        rows.append(tuple(row))
    return Table("the same prompts on this engine, by policy", tuple(columns), rows)


def policy_name(label: str) -> str:
    """What a variant's label means where every policy runs on one engine."""
    variant = Variant.parse(label)
    if variant.kind is VariantKind.TURBOSPEC:
        return "goodput (chooses by itself)"
    return f"length {variant.num_steps}" + (", always" if variant.num_steps else ": no speculation")


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ABSENT
    return f"{spread.middle:.{digits}f} [{spread.low:.{digits}f}..{spread.high:.{digits}f}]"
