"""Statistics of a benchmark's raw records. Pure: records in, numbers out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.results import Cell, RequestRecord, Step, VariantRun
from benchmarks.slices import PARTS, SliceStats, evened, slice_stats, step_time_ratio
from benchmarks.spread import Spread
from benchmarks.variants import Variant, VariantKind

# A shorter answer says little about the time per token; one cut off by the window's end counts if longer.
MIN_TPOT_TOKENS = 16

# So much worse than the best that an arm's further turns would tell nothing.
CLEARLY = 0.02

RunKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """What came in so many seconds. Windows add up."""

    tokens: float
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @classmethod
    def of(cls, run: VariantRun) -> Window:
        return cls(window_tokens(run), run.window_end_s - run.window_start_s)

    @classmethod
    def of_steps(cls, steps: Sequence[Step]) -> Window:
        return cls(sum(step.tokens_total for step in steps), sum(step.seconds for step in steps))

    @classmethod
    def total(cls, windows: Iterable[Window]) -> Window:
        kept = list(windows)
        return cls(sum(window.tokens for window in kept), sum(window.seconds for window in kept))


@dataclass(frozen=True, slots=True)
class VariantStats:
    """One variant in one cell; latencies in seconds, pooled over all runs."""

    label: str
    # The variant whose server played it.
    server: str
    # By start, and round or part; texts evened out if it was measured in slices.
    windows: dict[RunKey, Window]
    # The same with the tokens as they came.
    plain_windows: dict[RunKey, Window]
    # (last - first token) / (tokens - 1) of every answer.
    tpot_s: list[float]
    # Gaps between chunks that carried tokens, however many: what a reader sees.
    itl_s: list[float]
    ttft_s: list[float]
    # Tokens per verification step and request; None if the server counts none.
    mean_accepted_length: float | None
    # Outputs that equal those of `nospec` for the same prompt, and how many were compared.
    outputs_equal: int
    outputs_compared: int

    @property
    def goodput(self) -> Spread | None:
        """Tokens per second: the mean over the starts of their rounds taken together; of one start,
        its rounds."""
        return self._spread(self.windows, self._tokens_per_s)

    def ratio_to(self, other: VariantStats, *, evened: bool = True) -> Spread | None:
        """Goodput over that of `other` in the rounds that both have: the same seconds, the same prompts.

        evened: False for the tokens as they came.
        """
        mine, theirs = (one.windows if evened else one.plain_windows for one in (self, other))
        shared = [key for key in sorted(mine.keys() & theirs.keys()) if theirs[key].tokens]

        def value(keys: Iterable[RunKey]) -> float:
            kept = list(keys)
            first, second = (Window.total(windows[key] for key in kept) for windows in (mine, theirs))
            return first.tokens_per_s / second.tokens_per_s

        if shared and self.server == other.server:
            # The same process: nothing that a start deals differs between them.
            return Spread.about(value(shared), [value([key]) for key in shared])
        return self._spread(shared, value)

    def _tokens_per_s(self, keys: Iterable[RunKey]) -> float:
        return Window.total(self.windows[key] for key in keys).tokens_per_s

    @staticmethod
    def _spread(keys: Iterable[RunKey], value: Callable[[list[RunKey]], float]) -> Spread | None:
        # The rounds of a start are taken together: with several clients a round has a prefill more than
        # another server's, and the next one less; what a start's rounds differ by is one prefill in all.
        by_start: dict[int, list[RunKey]] = defaultdict(list)
        for key in sorted(keys):
            by_start[key[0]].append(key)
        if len(by_start) > 1:
            return Spread.of_starts([value(rounds) for rounds in by_start.values()])
        return Spread.of(value([key]) for rounds in by_start.values() for key in rounds)


@dataclass(frozen=True, slots=True)
class CellStats:
    """Everything derived from one cell."""

    cell: Cell
    variants: dict[str, VariantStats]

    @property
    def nospec(self) -> VariantStats | None:
        return self.variants.get(VariantKind.NOSPEC)

    @property
    def turbospec(self) -> VariantStats | None:
        return self.variants.get(VariantKind.TURBOSPEC)

    @property
    def best_fixed(self) -> VariantStats | None:
        """The fixed length with the highest goodput: known only afterwards.

        Those that left early ran at other times, and left since they were behind.
        """
        return max(
            (one for one in self.fixed if one.label not in self.cell.behind), key=_goodput, default=None
        )

    @property
    def fixed(self) -> list[VariantStats]:
        """The fixed lengths, ascending."""
        return [one for one in self.variants.values() if Variant.parse(one.label).kind is VariantKind.FIXED]

    @property
    def step_time_ratio(self) -> Spread | None:
        """A step under control over one in a fixed arm of equal batch size and length: what control costs."""
        found = step_time_ratio(slice_stats(self.cell.slices), VariantKind.TURBOSPEC)
        return Spread.about(*found) if found else None

    @property
    def best_plain(self) -> VariantStats | None:
        """The better of no speculation and the best fixed length."""
        plain = [stats for stats in (self.nospec, self.best_fixed) if stats]
        return max(plain, key=_goodput, default=None)


def clearly_behind(stats: CellStats) -> list[str]:
    """Fixed lengths that the best one beats by `CLEARLY` or more with 95 % confidence."""
    best = stats.best_fixed
    if best is None:
        return []
    rivals = [one for one in stats.fixed if one is not best and one.label not in stats.cell.behind]
    ratios = {one.label: one.ratio_to(best) for one in rivals if one.server == best.server}
    return [
        label
        for label, ratio in ratios.items()
        if ratio and ratio.count >= PARTS and ratio.high < 1 - CLEARLY
    ]


def cell_stats(cell: Cell) -> CellStats:
    """Derive the numbers of one cell from its runs."""
    sliced = slice_stats(cell.slices), slice_stats(evened(cell.slices))
    labels = sorted({run.variant for run in cell.runs} | sliced[0].keys(), key=_order)
    reference = _digests(run for run in cell.runs if run.variant == VariantKind.NOSPEC)
    variants = {}
    for label in labels:
        runs = [run for run in cell.runs if run.variant == label]
        stats = _variant_stats(label, runs, reference)
        if label in sliced[0]:
            stats = _in_slices(stats, *(by_label[label] for by_label in sliced))
        variants[label] = stats
    return CellStats(cell, variants)


def window_tokens(run: VariantRun) -> int:
    """Tokens that reached the clients inside the run's window."""
    return sum(
        count
        for request in run.requests
        for at_s, count in zip(request.chunk_s, request.chunk_tokens, strict=True)
        if run.window_start_s <= at_s < run.window_end_s
    )


def _variant_stats(label: str, runs: list[VariantRun], reference: dict[tuple[int, ...], str]) -> VariantStats:
    digests = _digests(runs)
    compared = digests.keys() & reference.keys()
    windows = {(run.group, run.round): Window.of(run) for run in runs}
    return VariantStats(
        label=label,
        server=label,
        windows=windows,
        plain_windows=windows,
        tpot_s=[tpot for run in runs for request in run.requests if (tpot := _tpot_s(request)) is not None],
        itl_s=[gap for run in runs for gap in _itl_s(run)],
        ttft_s=[
            request.chunk_s[0] - request.sent_s
            for run in runs
            for request in run.requests
            # One that the end of the run found before its first token has none to time.
            if request.chunk_s and not request.starts_before and request.sent_s >= run.window_start_s
        ],
        mean_accepted_length=_mean_accepted_length(runs),
        outputs_equal=sum(digests[key] == reference[key] for key in compared),
        outputs_compared=len(compared),
    )


def _in_slices(stats: VariantStats, plain: SliceStats, even: SliceStats) -> VariantStats:
    """What only clients see, and the rest of it from inside the scheduler."""
    windows, plain_windows = (
        {part: Window.of_steps(steps) for part, steps in one.parts.items()} for one in (even, plain)
    )
    return replace(
        stats,
        server=plain.server,
        windows=windows,
        plain_windows=plain_windows,
        tpot_s=plain.tpot_s(MIN_TPOT_TOKENS),
        itl_s=plain.itl_s,
        mean_accepted_length=plain.mean_accepted_length,
    )


def _tpot_s(request: RequestRecord) -> float | None:
    tokens = sum(request.chunk_tokens)
    if tokens < MIN_TPOT_TOKENS or len(request.chunk_s) < 2:
        return None
    return (request.chunk_s[-1] - request.chunk_s[0]) / (tokens - 1)


def _itl_s(run: VariantRun) -> list[float]:
    return [
        later - earlier
        for request in run.requests
        for earlier, later in zip(request.chunk_s, request.chunk_s[1:], strict=False)
        if run.window_start_s <= later < run.window_end_s
    ]


def _mean_accepted_length(runs: list[VariantRun]) -> float | None:
    counted = [request for run in runs for request in run.requests if request.verify_steps]
    steps = sum(request.verify_steps or 0 for request in counted)
    accepted = sum(request.accepted_drafts or 0 for request in counted)
    return 1 + accepted / steps if steps else None


def _digests(runs: Iterable[VariantRun]) -> dict[tuple[int, ...], str]:
    """Output digests by group, prompt and length of the answer asked for."""
    return {
        (run.group, request.prompt_index, request.max_tokens): request.output_digest
        for run in runs
        for request in run.requests
        if request.output_digest
    }


def _order(label: str) -> tuple[int, int]:
    variant = Variant.parse(label)
    return list(VariantKind).index(variant.kind), variant.num_steps


def _goodput(stats: VariantStats) -> float:
    return stats.goodput.middle if stats.goodput else 0.0
