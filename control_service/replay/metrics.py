"""What one run amounts to."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from control_service.replay.loop import RunLog, World
from control_service.replay.model_score import ModelErrors

FloatArray = npt.NDArray[np.float64]

PROBE = "probe"
COLD_START = "cold_start"
# Lengths run for these reasons are not the policy's steady choice.
UNSTEADY = frozenset({PROBE, COLD_START, "no_telemetry", "models_not_ready"})
# Recovered: over this long, at least this share of the best length's goodput.
RECOVERY_WINDOW_S = 1.0
RECOVERY_RATIO = 0.99


@dataclass(frozen=True)
class PhaseResult:
    """One phase; a step belongs to the phase in which it starts.

    expected_tokens_per_s: as in RunResult.
    recovery_s: seconds from the phase's start until the expected goodput of the lengths run, over the
    second that follows, is at least 0.99 of the best length's; NaN if that never happens.
    """

    concurrency: int
    group: int
    seconds: float
    tokens: int
    expected_tokens_per_s: float
    recovery_s: float

    @property
    def tokens_per_s(self) -> float:
        """Committed tokens a second."""
        return self.tokens / self.seconds if self.seconds else math.nan


@dataclass(frozen=True)
class RunResult:
    """One run, from its first step.

    expected_tokens_per_s: with average acceptance and noise-free times of the lengths run: the
    same judgement with less luck in it. switches: changes of the steady length from step to step,
    probes and the cold start left out; length_changes: all of them. probe_lost_share,
    cold_start_lost_share: share of the time lost to running a probed length instead of the steady
    one, or instead of the best one while cold; steady_lost_share: of all other steps, instead of
    the best one; by expectation. recoveries_s: after each watched change of acceptance, as
    PhaseResult.recovery_s.
    """

    tokens_per_s: float
    expected_tokens_per_s: float
    steps: int
    switches: int
    length_changes: int
    probe_step_share: float
    probe_time_share: float
    probe_lost_share: float
    cold_start_lost_share: float
    steady_lost_share: float
    step_time_error: float
    acceptance_error: float
    phases: tuple[PhaseResult, ...]
    recoveries_s: tuple[float, ...]
    steps_by_length: dict[int, int]
    steps_by_reason: dict[str, int]

    @property
    def switches_per_1000(self) -> float:
        """Switches per 1,000 steps."""
        return 1_000.0 * self.switches / self.steps

    @property
    def length_changes_per_1000(self) -> float:
        """Changes of any kind per 1,000 steps."""
        return 1_000.0 * self.length_changes / self.steps


def judge(log: RunLog, world: World, candidates: tuple[int, ...], errors: ModelErrors) -> RunResult:
    """Everything about one run."""
    start_s, true_s = np.array(log.start_s), np.array(log.true_s)
    goodput = _expected_goodput(log, world, candidates)
    index = np.searchsorted(np.array(candidates), np.array(log.num_steps))
    mine, best = goodput[index, np.arange(index.size)], goodput.max(axis=0)
    steady = _steady_index(log, index)
    reasons = np.array(log.reason)
    probing, cold = reasons == PROBE, reasons == COLD_START
    best_index = goodput.argmax(axis=0)
    lost = _lost_seconds(goodput, index, np.where(steady < 0, best_index, steady), true_s)
    lost_best = _lost_seconds(goodput, index, best_index, true_s)
    total_s = float(true_s.sum())
    return RunResult(
        tokens_per_s=sum(log.tokens) / log.end_s,
        expected_tokens_per_s=float((mine * true_s).sum()) / total_s,
        steps=index.size,
        switches=_changes(index[~np.isin(reasons, list(UNSTEADY))]),
        length_changes=_changes(index),
        probe_step_share=float(probing.mean()),
        probe_time_share=float(true_s[probing].sum()) / total_s,
        probe_lost_share=float(lost[probing].sum()) / total_s,
        cold_start_lost_share=float(lost_best[cold].sum()) / total_s,
        steady_lost_share=float(lost_best[~probing & ~cold].sum()) / total_s,
        step_time_error=errors.step_time,
        acceptance_error=errors.acceptance,
        phases=tuple(_phases(world, log, true_s, mine, best)),
        recoveries_s=tuple(
            recovery_s(start_s, true_s, mine / best, change_s) for change_s in world.source.watched_s
        ),
        steps_by_length=dict(sorted(Counter(log.num_steps).items())),
        steps_by_reason=dict(Counter(log.reason).most_common()),
    )


def recovery_s(start_s: FloatArray, true_s: FloatArray, ratio: FloatArray, since_s: float) -> float:
    """Seconds after `since_s` until the lengths run are nearly the best ones for a while; see PhaseResult.

    start_s, true_s, ratio: [n] of every step its start, its noise-free seconds, and its expected
    goodput over the best length's.
    """
    seconds = np.concatenate(([0.0], np.cumsum(true_s)))
    good = np.concatenate(([0.0], np.cumsum(ratio * true_s)))
    ends = np.searchsorted(start_s, start_s + RECOVERY_WINDOW_S)
    for first in range(int(np.searchsorted(start_s, since_s)), start_s.size):
        last = int(ends[first])
        if good[last] - good[first] >= RECOVERY_RATIO * (seconds[last] - seconds[first]):
            return max(float(start_s[first]) - since_s, 0.0)
    return math.nan


def _expected_goodput(log: RunLog, world: World, candidates: tuple[int, ...]) -> FloatArray:
    """[K, n] tokens a second that each length is expected to bring at each step."""
    start_s = np.array(log.start_s)
    batch = np.array(log.batch_size, dtype=np.float64)
    context = np.array(log.context_tokens, dtype=np.float64)
    counts = np.array(log.group_counts)
    # Acceptance is constant between its scheduled changes.
    times_s = (0.0, *world.source.changes_s)
    segment = np.searchsorted(np.array(times_s[1:]), start_s, side="right")
    goodput = np.empty((len(candidates), batch.size))
    for row, length in enumerate(candidates):
        mean = np.array(
            [
                [world.source.mean_tokens(group, length, time_s) for group in range(counts.shape[1])]
                for time_s in times_s
            ]
        )
        tokens = (counts * mean[segment]).sum(axis=1)
        goodput[row] = tokens / world.times.seconds(batch, length, context)
    return goodput


def _steady_index(log: RunLog, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[n] the length last run for a steady reason, as an index; -1 before the first."""
    steady, result = -1, np.empty_like(index)
    for step, reason in enumerate(log.reason):
        if reason not in UNSTEADY:
            steady = int(index[step])
        result[step] = steady
    return result


def _lost_seconds(
    goodput: FloatArray, index: npt.NDArray[np.int64], instead: npt.NDArray[np.int64], true_s: FloatArray
) -> FloatArray:
    steps = np.arange(index.size)
    return true_s * (1.0 - goodput[index, steps] / goodput[instead, steps])


def _changes(index: npt.NDArray[np.int64]) -> int:
    return int(np.count_nonzero(np.diff(index)))


def _phases(
    world: World, log: RunLog, true_s: FloatArray, mine: FloatArray, best: FloatArray
) -> list[PhaseResult]:
    """mine, best: [n] expected tokens a second of the length run and of the best one."""
    phase, start_s = np.array(log.phase), np.array(log.start_s)
    tokens, duration_s = np.array(log.tokens), np.array(log.duration_s)
    results = []
    for place, (concurrency, _, group) in enumerate(world.load.phases):
        inside = phase == place
        true = true_s[inside]
        results.append(
            PhaseResult(
                concurrency=concurrency,
                group=group,
                seconds=float(duration_s[inside].sum()),
                tokens=int(tokens[inside].sum()),
                expected_tokens_per_s=float((mine[inside] * true).sum() / true.sum()),
                recovery_s=recovery_s(
                    start_s[inside], true, (mine / best)[inside], world.load.starts_s[place]
                ),
            )
        )
    return results
