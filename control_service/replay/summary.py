"""Results of all seeds, against the best fixed length and the bounds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import TypeVar

from control_service.replay.metrics import RunResult
from control_service.replay.plan import CLAIRVOYANT, FIXED, PERFECT_MODELS, Plan, Unit

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class PhaseRow:
    """A contender in one phase; medians over the seeds.

    best_fixed: the best fixed length of this phase; ratio_to_best_fixed: tokens/s over that length's;
    expected_ratio: the same by expectation.
    """

    concurrency: int
    group: int
    tokens_per_s: float
    best_fixed: int
    ratio_to_best_fixed: float
    expected_ratio: float
    recovery_s: float


@dataclass(frozen=True)
class Row:
    """A contender in a cell; medians over the seeds unless named otherwise.

    ratio_to_*: median over the seeds of tokens/s, over the median of the other.
    paired_ratio, paired_ratio_min, paired_ratio_max: over the best fixed length, seed by seed.
    expected_ratio: the same as ratio_to_best_fixed by expectation, without luck.
    recoveries_s: after each change of the acceptance schedule; NaN if never.
    """

    trace: str
    drafter: str
    concurrency: str
    policy: str
    tokens_per_s: float
    best_fixed: int
    ratio_to_best_fixed: float
    paired_ratio: float
    paired_ratio_min: float
    paired_ratio_max: float
    expected_ratio: float
    ratio_to_clairvoyant: float
    ratio_to_perfect_models: float
    switches_per_1000_steps: float
    length_changes_per_1000_steps: float
    probe_step_share: float
    probe_time_share: float
    probe_lost_share: float
    cold_start_lost_share: float
    steady_lost_share: float
    step_time_error: float
    acceptance_error: float
    recoveries_s: tuple[float, ...]
    phases: tuple[PhaseRow, ...]
    tokens_per_s_by_seed: dict[int, float]
    steps_by_length: dict[int, int]
    steps_by_reason: dict[str, int]

    def plain(self) -> dict[str, object]:
        """For JSON: what is not known is None."""
        plain = asdict(self)
        return {key: _without_nan(value) for key, value in plain.items()}


def summarise(plan: Plan, results: Mapping[Unit, RunResult]) -> list[Row]:
    """One row a cell and contender, in the plan's order."""
    rows: list[Row] = []
    for index in range(len(plan.cells)):
        runs = {
            contender: [results[Unit(index, contender, seed)] for seed in plan.seeds]
            for contender in plan.contenders
        }
        rows.extend(_row(plan, index, contender, runs) for contender in plan.contenders)
    return rows


def _row(plan: Plan, index: int, contender: str, runs: dict[str, list[RunResult]]) -> Row:
    cell, mine = plan.cells[index], runs[contender]
    rate = {name: median(run.tokens_per_s for run in found) for name, found in runs.items()}
    best = max(plan.candidates, key=lambda length: rate[f"{FIXED}:{length}"])
    best_runs = runs[f"{FIXED}:{best}"]
    paired = [run.tokens_per_s / other.tokens_per_s for run, other in zip(mine, best_runs, strict=True)]
    expected = median(run.expected_tokens_per_s for run in mine)
    return Row(
        trace=cell.trace,
        drafter=cell.drafter,
        concurrency=cell.load.label,
        policy=contender,
        tokens_per_s=rate[contender],
        best_fixed=best,
        ratio_to_best_fixed=rate[contender] / rate[f"{FIXED}:{best}"],
        paired_ratio=median(paired),
        paired_ratio_min=min(paired),
        paired_ratio_max=max(paired),
        expected_ratio=expected / median(run.expected_tokens_per_s for run in best_runs),
        ratio_to_clairvoyant=rate[contender] / rate[CLAIRVOYANT],
        ratio_to_perfect_models=rate[contender] / rate[PERFECT_MODELS],
        switches_per_1000_steps=median(run.switches_per_1000 for run in mine),
        length_changes_per_1000_steps=median(run.length_changes_per_1000 for run in mine),
        probe_step_share=median(run.probe_step_share for run in mine),
        probe_time_share=median(run.probe_time_share for run in mine),
        probe_lost_share=median(run.probe_lost_share for run in mine),
        cold_start_lost_share=median(run.cold_start_lost_share for run in mine),
        steady_lost_share=median(run.steady_lost_share for run in mine),
        step_time_error=_known(run.step_time_error for run in mine),
        acceptance_error=_known(run.acceptance_error for run in mine),
        recoveries_s=tuple(
            _worst_median(times) for times in zip(*(run.recoveries_s for run in mine), strict=True)
        ),
        phases=tuple(_phase_row(plan, runs, mine, place) for place in range(len(cell.load.phases))),
        tokens_per_s_by_seed=dict(zip(plan.seeds, (run.tokens_per_s for run in mine), strict=True)),
        steps_by_length=_sum(run.steps_by_length for run in mine),
        steps_by_reason=_sum(run.steps_by_reason for run in mine),
    )


def _phase_row(plan: Plan, runs: dict[str, list[RunResult]], mine: list[RunResult], place: int) -> PhaseRow:
    fixed = {
        length: median(run.phases[place].tokens_per_s for run in runs[f"{FIXED}:{length}"])
        for length in plan.candidates
    }
    best = max(plan.candidates, key=lambda length: fixed[length])
    rate = median(run.phases[place].tokens_per_s for run in mine)
    expected, fixed_expected = (
        median(run.phases[place].expected_tokens_per_s for run in found)
        for found in (mine, runs[f"{FIXED}:{best}"])
    )
    return PhaseRow(
        concurrency=mine[0].phases[place].concurrency,
        group=mine[0].phases[place].group,
        tokens_per_s=rate,
        best_fixed=best,
        ratio_to_best_fixed=rate / fixed[best],
        expected_ratio=expected / fixed_expected,
        recovery_s=_worst_median([run.phases[place].recovery_s for run in mine]),
    )


def _known(values: Iterable[float]) -> float:
    """The median of those that are known; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


def _worst_median(times_s: Iterable[float]) -> float:
    """The median, with 'never' as the longest time; NaN if that is the median."""
    middle = median(math.inf if math.isnan(time_s) else time_s for time_s in times_s)
    return middle if math.isfinite(middle) else math.nan


def _sum(counts: Iterable[Mapping[Key, int]]) -> dict[Key, int]:
    total: Counter[Key] = Counter()
    for part in counts:
        total.update(part)
    return dict(total.most_common())


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
