"""What is counted of one engine epoch. Plain numbers; the shell reads them, only the session writes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass
from typing import NamedTuple

from control_service.core.types import StepObservation

STEP_SECONDS_BOUNDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
ANSWER_SECONDS_BOUNDS = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0,
)  # fmt: skip
# What our code takes on the step thread: 50 us at the median and 200 us at p99 are promised.
CONTROL_SECONDS_BOUNDS = (
    0.00001, 0.00002, 0.00003, 0.00005, 0.000075, 0.0001, 0.00015, 0.0002, 0.0005, 0.001, 0.01,
)  # fmt: skip
# Most steps wait for nothing; a step deadline is 2 ms unless it was set otherwise.
WAIT_SECONDS_BOUNDS = (0.00001, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1.0)
ERROR_RATIO_BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)

RECENT_SECONDS = 10.0
RECENT_STEPS_MAX = 4_096
QUANTILE_SAMPLES = 1_024
# Reasons come from the engine as text: an odd one must not grow the metrics without bound.
REASONS_MAX = 16
OTHER = "other"
FALLBACK = "fallback"


class Histogram:
    """Cumulative histogram with fixed upper bounds, as Prometheus wants it."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """Values at or below each bound, then all of them."""
        total, result = 0, []
        for count in self._counts:
            total += count
            result.append(total)
        return result


@dataclass(frozen=True, slots=True)
class QuantileSummary:
    """Of the newest values; `count` is of all ever seen."""

    count: int
    p50: float
    p99: float
    max: float


class Recent:
    """Quantiles of the newest values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=QUANTILE_SAMPLES)
        self._count = 0

    def add(self, value: float) -> None:
        """Keep one value."""
        self._values.append(value)
        self._count += 1

    def summary(self) -> QuantileSummary:
        """NaN until there is a value."""
        if not self._values:
            return QuantileSummary(0, float("nan"), float("nan"), float("nan"))
        ordered = sorted(self._values)
        last = len(ordered) - 1
        return QuantileSummary(
            self._count, ordered[round(0.5 * last)], ordered[round(0.99 * last)], ordered[last]
        )


class RecentRates(NamedTuple):
    """Over the last seconds of the engine's own time; NaN until there is data."""

    acceptance_rate: float
    mean_accepted_length_tokens: float
    goodput_tokens_per_s: float


class _Slice(NamedTuple):
    start_s: float
    duration_s: float
    committed: int
    drafts: int
    draft_tokens: int
    accepted: int


class RecentWindow:
    """Steps of the last seconds, by the engine's clock."""

    def __init__(self) -> None:
        self._slices: deque[_Slice] = deque(maxlen=RECENT_STEPS_MAX)

    def add(self, step: StepObservation, accepted: int) -> None:
        """Keep one step and drop those that are too old."""
        drafts = step.batch_size if step.num_steps else 0
        self._slices.append(
            _Slice(
                step.start_s,
                step.duration_s,
                step.batch_size + accepted,
                drafts,
                step.batch_size * step.num_steps,
                accepted,
            )
        )
        while self._slices[0].start_s < step.start_s - RECENT_SECONDS:
            self._slices.popleft()

    def rates(self) -> RecentRates:
        """Rates over the kept steps."""
        drafts = sum(s.drafts for s in self._slices)
        draft_tokens = sum(s.draft_tokens for s in self._slices)
        accepted = sum(s.accepted for s in self._slices)
        duration_s = sum(s.duration_s for s in self._slices)
        committed = sum(s.committed for s in self._slices)
        nan = float("nan")
        return RecentRates(
            acceptance_rate=accepted / draft_tokens if draft_tokens else nan,
            mean_accepted_length_tokens=1.0 + accepted / drafts if drafts else nan,
            goodput_tokens_per_s=committed / duration_s if duration_s else nan,
        )


class EngineCounters:
    """Totals since the service first saw the epoch, and distributions of late."""

    def __init__(self, length_max: int) -> None:
        self.decisions_total = 0
        self.probe_decisions_total = 0
        self.switches_total = 0
        self.steps_total = 0
        self.committed_tokens_total = 0
        self.drafts_total = 0
        self.draft_tokens_total = 0
        self.accepted_tokens_total = 0
        self.accepted_by_position = [0] * length_max
        self.decisions_by_reason: Counter[str] = Counter()
        self.steps_by_source: Counter[str] = Counter()
        # In a canary steps of two sources take turns under the same load: their goodputs compare.
        self.committed_tokens_by_source: Counter[str] = Counter()
        self.seconds_by_source: dict[str, float] = {}
        self.fallbacks_by_reason: Counter[str] = Counter()
        self.steps_by_num_steps: Counter[int] = Counter()
        self.committed_tokens_by_num_steps: Counter[int] = Counter()
        self.seconds_by_num_steps: dict[int, float] = {}
        self.drops_by_cause: Counter[str] = Counter()
        # Running totals of the engine, as it reported them last.
        self.lease_refusals_by_cause: Counter[str] = Counter()
        self.dropped_asks_total = 0
        self.step_seconds = Histogram(STEP_SECONDS_BOUNDS)
        self.answer_seconds = Histogram(ANSWER_SECONDS_BOUNDS)
        self.step_time_error_ratio = Histogram(ERROR_RATIO_BOUNDS)
        self.control_seconds = Histogram(CONTROL_SECONDS_BOUNDS)
        self.decision_wait_seconds = Histogram(WAIT_SECONDS_BOUNDS)
        self.control_us = Recent()
        self.decision_wait_us = Recent()
        self.answer_us = Recent()
        self.window = RecentWindow()

    def count_step(self, step: StepObservation) -> None:
        """One served step."""
        accepted = sum(step.accepted_drafts)
        self.steps_total += 1
        self.committed_tokens_total += step.batch_size + accepted
        self.accepted_tokens_total += accepted
        if step.num_steps:
            self.drafts_total += step.batch_size
            self.draft_tokens_total += step.batch_size * step.num_steps
            # As bytes: see AcceptanceModel.observe.
            ran = bytes(step.accepted_drafts)
            alive = step.batch_size
            for position in range(step.num_steps):
                alive -= ran.count(position)
                self.accepted_by_position[position] += alive
        self.steps_by_source[step.source] += 1
        self.committed_tokens_by_source[step.source] += step.batch_size + accepted
        self.seconds_by_source[step.source] = self.seconds_by_source.get(step.source, 0.0) + step.duration_s
        self.steps_by_num_steps[step.num_steps] += 1
        self.committed_tokens_by_num_steps[step.num_steps] += step.batch_size + accepted
        seconds = self.seconds_by_num_steps
        seconds[step.num_steps] = seconds.get(step.num_steps, 0.0) + step.duration_s
        if step.source == FALLBACK:
            self.fallbacks_by_reason[_bounded(self.fallbacks_by_reason, step.fallback_reason)] += 1
        self._take_totals(step)
        self.step_seconds.observe(step.duration_s)
        self.control_seconds.observe(step.control_us * 1e-6)
        self.decision_wait_seconds.observe(step.decision_wait_us * 1e-6)
        self.control_us.add(step.control_us)
        self.decision_wait_us.add(step.decision_wait_us)
        self.window.add(step, accepted)

    def _take_totals(self, step: StepObservation) -> None:
        """The engine sends running totals, and spans may come out of order: the largest is the newest."""
        if step.dropped_records > self.drops_by_cause.get("engine", 0):
            self.drops_by_cause["engine"] = step.dropped_records
        for cause, count in step.lease_refusals:
            if count > self.lease_refusals_by_cause.get(cause, 0):
                self.lease_refusals_by_cause[cause] = count
        self.dropped_asks_total = max(self.dropped_asks_total, step.dropped_asks)

    def count_answer(self, seconds: float) -> None:
        """Time from a request's arrival to its answer's departure."""
        self.answer_seconds.observe(seconds)
        self.answer_us.add(seconds * 1e6)


def _bounded(counter: Counter[str], label: str) -> str:
    label = label or "unspecified"
    return label if label in counter or len(counter) < REASONS_MAX else OTHER
