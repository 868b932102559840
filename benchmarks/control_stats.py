"""What control did in a benchmark: the service's counts of all turns, taken together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.results import Quantiles, VariantRun

Key = TypeVar("Key")


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


def _worst(quantiles: Iterable[Quantiles]) -> Quantiles:
    return max(quantiles, key=lambda one: one.p99)


def _sum(counts: Iterable[dict[Key, int]]) -> dict[Key, int]:
    total: Counter[Key] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)
