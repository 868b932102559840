"""What a run amounts to, on runs small enough to know."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from control_service.core.models import EngineModels
from control_service.core.types import StepObservation
from control_service.replay.loop import Launch, RunLog, Verdict, run
from control_service.replay.metrics import RunResult, judge, recovery_s
from control_service.replay.model_score import ModelErrors, ModelScore
from control_service.replay.oracles import FixedLength
from control_service.replay.plan import Plan, Unit, profile_of, run_unit
from control_service.replay.step_times import NoiseTerms
from control_service.replay.streams import seeds_of
from control_service.replay.summary import summarise
from tests.unit.replay.builders import CANDIDATES, cell, trace_source, world

NO_ERRORS = ModelErrors(math.nan, math.nan)
# Longer than what a run commits, always 3 accepted: length 3 is best.
ENTRIES = (4,) * 4_000
NOTHING = np.zeros(1, dtype=np.int64)


def _log(lengths: list[int], reasons: list[str]) -> RunLog:
    log, now_s = RunLog(), 0.0
    where = world(trace_source(ENTRIES), (1, 10.0))
    for index, (length, reason) in enumerate(zip(lengths, reasons, strict=True)):
        seconds = where.times.seconds(1.0, length, 100.0)
        launch = Launch(index + 1, now_s, 0, 1, 100, False, np.ones(1, dtype=np.int64), NOTHING, NOTHING)
        log.add(launch, Verdict(length, reason), seconds, seconds, 1 + length)
        now_s += seconds
    log.end_s = now_s
    return log


def _judge(lengths: list[int], reasons: list[str]) -> RunResult:
    return judge(_log(lengths, reasons), world(trace_source(ENTRIES), (1, 10.0)), CANDIDATES, NO_ERRORS)


def test_rates_are_tokens_over_time() -> None:
    """Measured and expected agree where there is neither luck nor noise."""
    result = _judge([3] * 50, ["best_goodput"] * 50)
    # Verification of 4 tokens and 100 of context, 3 drafts.
    seconds = 10e-3 + 4e-3 + 0.1e-3 + 3 * 2e-3
    assert result.tokens_per_s == pytest.approx(4 / seconds)
    assert result.expected_tokens_per_s == pytest.approx(4 / seconds)
    assert result.steps_by_length == {3: 50}


def test_switches_leave_out_probes_and_the_cold_start() -> None:
    """A probe is not a change of mind; coming back to another length than before is."""
    lengths = [0, 1, 3, 3, 1, 3, 1, 1]
    reasons = ["cold_start", "cold_start", "best", "best", "probe", "best", "best", "best"]
    result = _judge(lengths, reasons)
    assert result.switches == 1
    assert result.length_changes == 5
    assert result.probe_step_share == pytest.approx(1 / 8)


def test_probing_is_charged_what_the_steady_length_would_have_brought() -> None:
    """The probe of length 0 loses against 3; the time it took is not all lost."""
    result = _judge([3] * 9 + [0], ["best"] * 9 + ["probe"])
    probe_s, steady_s = 11.1e-3, 20.1e-3
    total_s = 9 * steady_s + probe_s
    assert result.probe_time_share == pytest.approx(probe_s / total_s)
    lost_s = probe_s * (1.0 - (1 / probe_s) / (4 / steady_s))
    assert result.probe_lost_share == pytest.approx(lost_s / total_s)
    assert result.cold_start_lost_share == result.steady_lost_share == 0.0
    wrong = _judge([3] * 9 + [0], ["best"] * 10)
    assert wrong.steady_lost_share == pytest.approx(lost_s / total_s)
    assert wrong.probe_lost_share == 0.0


def test_recovery_is_the_start_of_the_first_good_second() -> None:
    """Not the first good step: a lucky one does not count."""
    start_s = np.arange(0.0, 10.0, 0.1)
    ratio = np.where(start_s < 4.95, 0.5, 1.0)
    ratio[30] = 1.0
    assert recovery_s(start_s, np.full(100, 0.1), ratio, since_s=2.0) == pytest.approx(3.0)
    assert recovery_s(start_s, np.full(100, 0.1), np.ones(100), since_s=2.05) == pytest.approx(0.05)
    assert math.isnan(recovery_s(start_s, np.full(100, 0.1), np.full(100, 0.9), since_s=2.0))


def test_phases_add_up_to_the_run() -> None:
    """Every token and second belongs to one phase."""
    where = world(trace_source(ENTRIES[:50]), (1, 0.5), (4, 0.5), noise=NoiseTerms(lognormal_sigma=0.1))
    log = run(where, FixedLength(1), seeds_of(1))
    result = judge(log, where, CANDIDATES, NO_ERRORS)
    assert sum(phase.tokens for phase in result.phases) == sum(log.tokens)
    assert sum(phase.seconds for phase in result.phases) == pytest.approx(log.end_s)
    assert [phase.concurrency for phase in result.phases] == [1, 4]
    assert all(math.isnan(phase.recovery_s) for phase in result.phases)


def _step(index: int, accepted: tuple[int, ...], duration_s: float, **changes: object) -> StepObservation:
    size = len(accepted)
    step = StepObservation(
        index, size, 100, 0, 3, 3, 0.0, duration_s, accepted, (False,) * size, "lease", "", 0, 0.0, 0.0, 0
    )
    return step._replace(**changes)  # type: ignore[arg-type]


def test_model_errors_compare_what_was_predicted_before_with_what_came() -> None:
    """Unready models are not judged, first steps and changed lengths left out as the models do."""
    profile = profile_of(cell(world(trace_source(ENTRIES), (1, 1.0))), CANDIDATES)
    models, score = EngineModels(profile), ModelScore(profile)
    score.expect(models, _step(1, (3,), 20e-3))
    assert all(math.isnan(value) for value in score.errors())
    index = 1
    for _ in range(60):
        for length, seconds in ((3, 20e-3), (0, 11e-3)):
            index += 1
            accepted = (2, 2) if length else (0, 0)
            models.observe(_step(index, accepted, seconds, num_steps=length, previous_num_steps=length))
    models.refit()
    # The same again: both positions always accepted, the third always rejected.
    score.expect(models, _step(500, (2, 2), 20e-3))
    errors = score.errors()
    assert errors.step_time < 0.02
    assert errors.acceptance < 0.1
    # Twice as slow, and nothing accepted.
    slow = ModelScore(profile)
    slow.expect(models, _step(501, (0, 0), 40e-3))
    slow.expect(models, _step(502, (2, 2), 1.0, previous_num_steps=0, first_step=(True, True)))
    assert slow.errors().step_time == pytest.approx(0.5, abs=0.02)
    assert slow.errors().acceptance > 0.9


def _plan() -> Plan:
    entries = (3, 2, 1, 4, 3, 2, 1, 1, 2, 1) * 12
    source = trace_source(*(entries[place:] for place in range(10)))
    where = world(source, (2, 1.0), (4, 1.0), noise=NoiseTerms(lognormal_sigma=0.05, outlier_share=0.01))
    return Plan((cell(where),), CANDIDATES, ("goodput",), (1, 2))


def test_a_unit_gives_the_same_result_every_time() -> None:
    """Results can be reproduced, and seeds differ."""
    plan = _plan()
    first, again, other = (run_unit(plan, Unit(0, "goodput", seed)) for seed in (1, 1, 2))
    assert _comparable(first) == _comparable(again)
    assert first.tokens_per_s != other.tokens_per_s


def test_a_summary_compares_with_the_best_fixed_length() -> None:
    """Ratios are over the best fixed length's median, of the run and of each phase."""
    plan = _plan()
    rows = {row.policy: row for row in summarise(plan, {unit: run_unit(plan, unit) for unit in plan.units})}
    assert list(rows) == ["fixed:0", "fixed:1", "fixed:3", "clairvoyant", "perfect_models", "goodput"]
    fixed = {length: rows[f"fixed:{length}"] for length in CANDIDATES}
    best = max(CANDIDATES, key=lambda length: fixed[length].tokens_per_s)
    assert {row.best_fixed for row in rows.values()} == {best}
    assert fixed[best].ratio_to_best_fixed == fixed[best].paired_ratio == 1.0
    mine = rows["goodput"]
    assert mine.ratio_to_best_fixed == pytest.approx(mine.tokens_per_s / fixed[best].tokens_per_s)
    for place, phase in enumerate(mine.phases):
        rates = {length: fixed[length].phases[place].tokens_per_s for length in CANDIDATES}
        assert phase.best_fixed == max(rates, key=lambda length: rates[length])
        assert phase.ratio_to_best_fixed == pytest.approx(phase.tokens_per_s / max(rates.values()))
    assert rows["clairvoyant"].tokens_per_s >= max(row.tokens_per_s for row in fixed.values())


def _comparable(result: RunResult) -> RunResult:
    """NaN equals nothing, not even itself."""
    phases = tuple(replace(phase, recovery_s=0.0) for phase in result.phases)
    return replace(result, phases=phases, step_time_error=0.0, acceptance_error=0.0)
