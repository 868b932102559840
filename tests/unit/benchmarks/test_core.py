"""The core's benchmark times valid work, and all of it. How long it takes is asserted nowhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.core import CoreResult, SyntheticEngine, as_table, measure, trained_session
from control_service.core.validation import check_profile, check_query, rejection_cause

OPERATIONS = ["fresh decision", "cached decision", "observed step", "refit"]


@pytest.mark.parametrize("batch_size", [1, 5, 256, 1_000])
def test_the_synthetic_engine_keeps_to_the_contract(batch_size: int) -> None:
    """A step refused at the door would be timed as a cheap one."""
    engine = SyntheticEngine(8, batch_size)
    check_profile(engine.profile)
    for _ in range(300):
        load = engine.load()
        assert 1 <= load <= batch_size
        check_query(engine.query(load))
        assert rejection_cause(engine.step(load), engine.profile) is None


def test_a_trained_session_has_models_to_decide_with() -> None:
    engine = SyntheticEngine(8, 64)
    session = trained_session(engine, "goodput", 600)
    assert session.models.forecaster is not None
    assert session.counters.steps_total == 600
    assert session.decisions[-1].choice.predictions


@pytest.mark.parametrize("policy", ["goodput", "ema", "turbospec"])
def test_every_operation_of_every_round_is_in_the_result_and_the_table(policy: str) -> None:
    result = measure(policy, lengths=8, batch_size=16, rounds=2, calls=20, learned_steps=400)
    assert list(result.operations) == OPERATIONS
    for cost in result.operations.values():
        assert len(cost.median_us) == len(cost.p99_us) == 2
        assert all(0.0 < median <= p99 for median, p99 in zip(cost.median_us, cost.p99_us, strict=True))
    assert CoreResult.model_validate_json(result.model_dump_json()) == result
    shown = io.StringIO()
    Console(file=shown, width=140).print(as_table(result))
    assert all(name in shown.getvalue() for name in OPERATIONS)
