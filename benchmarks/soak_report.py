"""What a soak has found: growth of every process, and the fallbacks with their explanations. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from pydantic import Field

from benchmarks.report import Table
from benchmarks.results import Environment, Record
from benchmarks.trend import SIGNIFICANT_ERRORS, slope_of

FORMAT_VERSION: Final = 1
MIB: Final = 2**20
SECONDS_PER_HOUR: Final = 3_600.0
# What a process may grow by in MiB an hour. The scheduler is SGLang's and PyTorch's memory more than ours.
RSS_BOUND_MIB_PER_H: Final = {"service": 8.0, "agent": 8.0, "scheduler": 32.0}
# The second half of a run has seen no load that the first has not.
THREADS_ALLOWED: Final = 0
DESCRIPTORS_ALLOWED: Final = 2
STEP_DEADLINE_S: Final = 0.002
# An export that is not answered by then is given up, with its records.
EXPORT_TIMEOUT_S: Final = 1.0
# Steps may find no lease until the first answer is there.
BEFORE_FIRST_LEASE: Final = frozenset({"disconnected", "connecting", "overdue", "deadline"})
# A lease was asked for in time, and its answer was not there.
LATE_ANSWER: Final = frozenset({"deadline", "overdue", "breaker"})
NO_CORE: Final = "no core for agent or service"


class ProcessSample(Record):
    """One process at one moment."""

    rss_bytes: int
    threads: int
    descriptors: int
    # Seconds it was ready to run and had no core, since its start.
    core_wait_s: float


class Sample(Record):
    """Everything at one moment; counters are totals of the engine's epoch."""

    at_s: float
    clients: int
    processes: dict[str, ProcessSample]
    steps: int
    fallbacks_by_reason: dict[str, int]
    drops_by_cause: dict[str, int]
    waited_for_lease_us_max: float


class SoakResult(Record):
    """A whole soak. `warmup_s` is the part of it that growth is not judged by."""

    format_version: int = FORMAT_VERSION
    environment: Environment
    minutes: float
    warmup_s: float
    samples: list[Sample] = Field(default_factory=list)
    failed_requests: int = 0
    finished_requests: int = 0


class Growth(Record):
    """Of one process after the warm-up."""

    process: str
    rss_mib: float
    slope_mib_per_h: float
    standard_error_mib_per_h: float
    # Of the last third alone: what fills up slowly grows, but ever less; what leaks does not.
    late_slope_mib_per_h: float
    late_standard_error_mib_per_h: float
    bound_mib_per_h: float
    # Highest of the first half and of the second.
    threads: tuple[int, int]
    descriptors: tuple[int, int]

    @property
    def faults(self) -> list[str]:
        """What grew beyond its bound."""
        faults = []
        if self.slope_mib_per_h - SIGNIFICANT_ERRORS * self.standard_error_mib_per_h > self.bound_mib_per_h:
            faults.append(f"{self.process}: memory grows by {self.slope_mib_per_h:.1f} MiB/h")
        if self.threads[1] > self.threads[0] + THREADS_ALLOWED:
            faults.append(f"{self.process}: threads grew from {self.threads[0]} to {self.threads[1]}")
        if self.descriptors[1] > self.descriptors[0] + DESCRIPTORS_ALLOWED:
            faults.append(
                f"{self.process}: descriptors grew from {self.descriptors[0]} to {self.descriptors[1]}"
            )
        return faults


class Losses(Record):
    """Steps without a lease, or lost records, of one reason; and why."""

    reason: str
    count: int
    explanation: str
    explained: bool


def growth_of(result: SoakResult) -> list[Growth]:
    """One for each process that was there all the time.

    Raises:
        ValueError: too few samples after the warm-up.
    """
    kept = [sample for sample in result.samples if sample.at_s >= result.warmup_s]
    names = [name for name in RSS_BOUND_MIB_PER_H if all(name in sample.processes for sample in kept)]
    return [_growth(name, kept) for name in names]


def _growth(name: str, kept: Sequence[Sample]) -> Growth:
    of_process = [sample.processes[name] for sample in kept]
    hours = [sample.at_s / SECONDS_PER_HOUR for sample in kept]
    mib = [one.rss_bytes / MIB for one in of_process]
    late = -(-len(kept) // 3)
    slope, late_slope = slope_of(hours, mib), slope_of(hours[-late:], mib[-late:])
    half = len(of_process) // 2
    first, second = of_process[:half], of_process[half:]
    return Growth(
        process=name,
        rss_mib=of_process[-1].rss_bytes / MIB,
        slope_mib_per_h=slope.value,
        standard_error_mib_per_h=slope.standard_error,
        late_slope_mib_per_h=late_slope.value,
        late_standard_error_mib_per_h=late_slope.standard_error,
        bound_mib_per_h=RSS_BOUND_MIB_PER_H[name],
        threads=(max(one.threads for one in first), max(one.threads for one in second)),
        descriptors=(max(one.descriptors for one in first), max(one.descriptors for one in second)),
    )


def losses_of(result: SoakResult) -> list[Losses]:
    """Every fallback and every lost record of the run, by reason and explanation.

    A fallback before the first step with a lease is the connection being made. A late answer is explained
    by a core that was not to be had: between two samples the agent or the service was ready to run and
    waited for at least the step deadline for each such step; a lost record by one that was not to be had
    for as long as an export may take. Everything else is unexplained.
    """
    found: Counter[tuple[str, str]] = Counter()
    before: Sample | None = None
    for sample in result.samples:
        fallbacks = before.fallbacks_by_reason if before is not None else {}
        for reason, count in _new(fallbacks, sample.fallbacks_by_reason).items():
            found[reason, _explanation(reason, count, before, sample)] += count
        drops = before.drops_by_cause if before is not None else {}
        starved = before is not None and _core_wait_s(before, sample) >= EXPORT_TIMEOUT_S
        for cause, count in _new(drops, sample.drops_by_cause).items():
            found[f"record dropped: {cause}", NO_CORE if starved and cause == "engine" else ""] += count
        before = sample
    return [
        Losses(reason=reason, count=count, explanation=explanation or "none", explained=bool(explanation))
        for (reason, explanation), count in sorted(found.items())
    ]


def _new(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in now.items() if count != before.get(name, 0)}


def _explanation(reason: str, steps: int, before: Sample | None, sample: Sample) -> str:
    leased_before = before is not None and before.steps > sum(before.fallbacks_by_reason.values())
    if not leased_before and reason in BEFORE_FIRST_LEASE:
        return "before the first lease"
    if before is None or reason not in LATE_ANSWER:
        return ""
    return NO_CORE if _core_wait_s(before, sample) >= steps * STEP_DEADLINE_S else ""


def _core_wait_s(before: Sample, sample: Sample) -> float:
    """How long agent and service together were ready to run and had no core."""
    return sum(
        sample.processes[name].core_wait_s - before.processes[name].core_wait_s
        for name in ("agent", "service")
        if name in sample.processes and name in before.processes
    )


def faults_of(result: SoakResult) -> list[str]:
    """Why the soak has failed; none if it has not."""
    faults = [fault for growth in growth_of(result) for fault in growth.faults]
    faults += [
        f"{one.count} without explanation: {one.reason}" for one in losses_of(result) if not one.explained
    ]
    if result.failed_requests:
        faults.append(f"{result.failed_requests} requests failed")
    return faults


def tables(result: SoakResult) -> list[Table]:
    """Growth, and fallbacks."""
    growth = Table(
        "growth after the warm-up",
        ("process", "RSS MiB", "MiB/h", "of the last third", "bound", "threads", "descriptors"),
        [
            (
                one.process,
                f"{one.rss_mib:.1f}",
                f"{one.slope_mib_per_h:+.2f} ± {one.standard_error_mib_per_h:.2f}",
                f"{one.late_slope_mib_per_h:+.2f} ± {one.late_standard_error_mib_per_h:.2f}",
                f"{one.bound_mib_per_h:g}",
                f"{one.threads[0]} -> {one.threads[1]}",
                f"{one.descriptors[0]} -> {one.descriptors[1]}",
            )
            for one in growth_of(result)
        ],
    )
    last = result.samples[-1]
    losses = Table(
        f"fallbacks and lost records, of {last.steps} steps",
        ("reason", "count", "explanation"),
        [(one.reason, str(one.count), one.explanation) for one in losses_of(result)] or [("none", "0", "-")],
    )
    return [growth, losses]
