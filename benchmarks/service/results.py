"""What a run of the service benchmark leaves behind, and when a service counts as holding its engines."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from benchmarks.results import Environment, Record

FORMAT_VERSION = 1
# What an answer may take at the 99th percentile for the engines to count as held.
ANSWER_P99_BAR_S = 0.005
# A generator that is later than this at the 99th percentile measures itself.
LATENESS_P99_MAX_S = 0.003


class Asking(StrEnum):
    """When engines ask."""

    EVERY_STEP = "every step"  # strict control: leases of one step
    LEASES = "leases of 16"  # as the plugin does by default


class Trial(Record):
    """So many engines on one service for a while; the warm-up is not in it. Latencies in seconds."""

    asking: Asking
    engines: int
    seconds: float
    steps: int
    decisions_per_s: float
    spans_per_s: float
    # None if there was no answer at all.
    answer_p50_s: float | None
    answer_p99_s: float | None
    answer_p999_s: float | None
    answer_max_s: float | None
    lateness_p99_s: float | None
    requests_unanswered: int
    steps_without_lease: int
    leases_refused: int
    spans_rejected: int
    spans_dropped: int
    # Sent and accepted, warm-up included, but not in the services' own count of steps.
    spans_uncounted: int
    streams_broken: int
    service_cores: float
    load_cores: float
    service_rss_mib: float

    @property
    def faults(self) -> list[str]:
        """Why the engines were not held; none if they were."""
        counts = {
            "requests unanswered": self.requests_unanswered,
            "leases refused": self.leases_refused,
            "spans rejected": self.spans_rejected,
            "spans dropped": self.spans_dropped,
            "spans uncounted": self.spans_uncounted,
            "streams broken": self.streams_broken,
        }
        faults = [f"{count} {name}" for name, count in counts.items() if count]
        if self.answer_p99_s is None:
            faults.append("no answer")
        elif self.answer_p99_s > ANSWER_P99_BAR_S:
            faults.append(f"p99 {self.answer_p99_s * 1e3:.1f} ms")
        if self.lateness_p99_s is not None and self.lateness_p99_s > LATENESS_P99_MAX_S:
            faults.append(f"load {self.lateness_p99_s * 1e3:.1f} ms late")
        return faults

    @property
    def held(self) -> bool:
        """Whether nothing was lost and answers came in time."""
        return not self.faults


class ServiceResult(Record):
    """A whole run."""

    format_version: int = FORMAT_VERSION
    environment: Environment
    batch_size: int
    steps_per_s: int
    trials: list[Trial] = Field(default_factory=list)
    # By way of asking: the largest number of engines whose longer confirmation run was held.
    engines_held: dict[Asking, int] = Field(default_factory=dict)

    def memory_per_engine_mib(self, asking: Asking) -> float | None:
        """Slope of the service's resident memory over the number of engines; None from one point."""
        points = [(trial.engines, trial.service_rss_mib) for trial in self.trials if trial.asking is asking]
        return slope(points)


def slope(points: list[tuple[int, float]]) -> float | None:
    """Least squares; None unless two different places are given.

    >>> slope([(1, 10.0), (2, 12.0), (3, 14.0)])
    2.0
    """
    if len({x for x, _ in points}) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
