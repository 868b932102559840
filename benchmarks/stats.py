"""Statistics of a benchmark's raw records. Pure: records in, numbers out."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from scipy.special import stdtrit

from benchmarks.results import Cell, Quantiles, RequestRecord, Step, VariantRun
from benchmarks.slices import PARTS, SliceStats, evened, slice_stats, step_time_ratio
from benchmarks.variants import Variant, VariantKind

# A shorter answer says little about the time per token; one cut off by the window's end counts if longer.
MIN_TPOT_TOKENS = 16

# Of 95 % confidence, two-sided.
CONFIDENCE_Z = 1.96
TAIL = 0.975

# So much worse than the best that an arm's further turns would tell nothing.
CLEARLY = 0.02

RunKey = tuple[int, int]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some rounds, and where the true one lies with 95 % confidence."""

    middle: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The median of rounds of the same servers; None if there are no values.

        The interval runs between two of the values, by their ranks (binomial distribution): whatever
        the shape of the noise. Of fewer than six values it is the extremes.

        >>> Spread.of(range(30))
        Spread(middle=14.5, low=9, high=20, count=30)
        """
        kept = sorted(values)
        if not kept:
            return None
        outside = max(0, int((len(kept) - CONFIDENCE_Z * math.sqrt(len(kept))) / 2))
        return cls(statistics.median(kept), kept[outside], kept[-1 - outside], len(kept))

    @classmethod
    def of_starts(cls, values: Sequence[float]) -> Spread | None:
        """The mean over starts; None if there are fewer than two.

        values: of each start, its rounds taken together. What a process is dealt by its start it keeps for
        life: rounds cannot average that out, only starts can. So each start counts as one observation, and
        the interval is Student's t over them.

        >>> spread = Spread.of_starts([1.0, 1.2, 1.1])
        >>> f"{spread.middle:.3f} [{spread.low:.3f}..{spread.high:.3f}] of {spread.count}"
        '1.100 [0.852..1.348] of 3'
        """
        if len(values) < 2:
            return None
        return cls.about(statistics.fmean(values), values)

    @classmethod
    def about(cls, middle: float, values: Sequence[float]) -> Spread:
        """Of the whole, whose parts have these values: the interval is Student's t over the parts."""
        reach = math.inf
        if len(values) > 1:
            reach = float(stdtrit(len(values) - 1, TAIL)) * statistics.stdev(values) / math.sqrt(len(values))
        return cls(middle, middle - reach, middle + reach, len(values))


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Linear between the two nearest ranks; None if there are no values.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50)
    2.5
    """
    ranked = sorted(values)
    if not ranked:
        return None
    place = (len(ranked) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


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


def over_cells(ratios: Sequence[Spread | None]) -> Spread | None:
    """The geometric mean of the cells' ratios, each cell an observation; None if fewer than two have one.

    >>> spread = over_cells([Spread(0.5, 0.4, 0.6, 10), None, Spread(2.0, 1.9, 2.1, 10)])
    >>> spread.middle, spread.count
    (1.0, 2)
    """
    spread = Spread.of_starts([math.log(ratio.middle) for ratio in ratios if ratio])
    if spread is None:
        return None
    return Spread(math.exp(spread.middle), math.exp(spread.low), math.exp(spread.high), spread.count)


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


@dataclass(frozen=True, slots=True)
class ControlStats:
    """What control did over all runs of one cell; microseconds are of an engine's life so far.

    Of several starts, those of the engine whose 99th percentile was the highest.
    """

    steps: int
    switches_per_1000_steps: float
    mean_accepted_length: float | None
    share_by_num_steps: dict[int, float]
    share_by_source: dict[str, float]
    fallbacks_by_reason: dict[str, int]
    drops_by_cause: dict[str, int]
    step_control_us: Quantiles
    decision_wait_us: Quantiles
    answer_us: Quantiles


def control_stats(runs: Sequence[VariantRun]) -> ControlStats | None:
    """Sum what the service counted during `runs`; None if it counted no step."""
    deltas = [run.control for run in runs if run.control]
    steps = sum(delta.steps for delta in deltas)
    if not steps:
        return None
    # Of every start the newest reading: it covers the engine's whole life, the earlier ones are part of it.
    newest = {run.group: run.control for run in runs if run.control}.values()
    committed = sum(delta.committed_tokens for delta in deltas)
    # Every request of a step commits one token more than it accepted drafts.
    request_steps = committed - sum(delta.accepted_tokens for delta in deltas)
    return ControlStats(
        steps=steps,
        switches_per_1000_steps=1000 * sum(delta.switches for delta in deltas) / steps,
        mean_accepted_length=committed / request_steps if request_steps else None,
        share_by_num_steps={
            k: n / steps for k, n in sorted(_sum(d.steps_by_num_steps for d in deltas).items())
        },
        share_by_source={k: n / steps for k, n in sorted(_sum(d.steps_by_source for d in deltas).items())},
        fallbacks_by_reason=_sum(delta.fallbacks_by_reason for delta in deltas),
        drops_by_cause=_sum(delta.drops_by_cause for delta in deltas),
        step_control_us=_worst(delta.step_control_us for delta in newest),
        decision_wait_us=_worst(delta.decision_wait_us for delta in newest),
        answer_us=_worst(delta.answer_us for delta in newest),
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


def _worst(quantiles: Iterable[Quantiles]) -> Quantiles:
    return max(quantiles, key=lambda one: one.p99)


def _order(label: str) -> tuple[int, int]:
    variant = Variant.parse(label)
    return list(VariantKind).index(variant.kind), variant.num_steps


def _goodput(stats: VariantStats) -> float:
    return stats.goodput.middle if stats.goodput else 0.0


def _sum(counts: Iterable[dict[Key, int]]) -> dict[Key, int]:
    total: Counter[Key] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)
