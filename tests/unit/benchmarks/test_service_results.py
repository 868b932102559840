"""When engines count as held, and how a run is shown."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from benchmarks.service import report
from benchmarks.service.load import Tally
from benchmarks.service.plugin_engines import SteppedAt
from benchmarks.service.replicas import EngineFailover, bare_steps, failover_table, outage_s
from benchmarks.service.results import Asking, ServiceResult, Trial, slope
from tests.unit.benchmarks.builders import result


def trial(**changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "asking": Asking.LEASES,
        "engines": 4,
        "seconds": 10.0,
        "steps": 4_000,
        "decisions_per_s": 27.0,
        "spans_per_s": 400.0,
        "answer_p50_s": 0.001,
        "answer_p99_s": 0.004,
        "answer_p999_s": 0.006,
        "answer_max_s": 0.007,
        "lateness_p99_s": 0.001,
        "requests_unanswered": 0,
        "steps_without_lease": 0,
        "leases_refused": 0,
        "spans_rejected": 0,
        "spans_dropped": 0,
        "spans_uncounted": 0,
        "streams_broken": 0,
        "service_cores": 0.5,
        "load_cores": 0.2,
        "service_rss_mib": 100.0,
    }
    return Trial(**{**fields, **changes})


def test_a_trial_without_faults_is_held() -> None:
    assert trial().held


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"requests_unanswered": 1}, "1 requests unanswered"),
        ({"leases_refused": 2}, "2 leases refused"),
        ({"spans_rejected": 3}, "3 spans rejected"),
        ({"spans_dropped": 4}, "4 spans dropped"),
        ({"spans_uncounted": 5}, "5 spans uncounted"),
        ({"streams_broken": 6}, "6 streams broken"),
        ({"answer_p99_s": 0.0051}, "p99 5.1 ms"),
        ({"answer_p99_s": None}, "no answer"),
        ({"lateness_p99_s": 0.004}, "load 4.0 ms late"),
    ],
)
def test_any_loss_or_lateness_is_a_fault(change: dict[str, Any], fault: str) -> None:
    assert trial(**change).faults == [fault]


def test_memory_an_engine_is_the_slope_over_their_number() -> None:
    trials = [trial(engines=number, service_rss_mib=80 + 1.5 * number) for number in (4, 8, 16)]
    found = ServiceResult(environment=result().environment, batch_size=64, steps_per_s=100, trials=trials)
    assert found.memory_per_engine_mib(Asking.LEASES) == pytest.approx(1.5)
    assert found.memory_per_engine_mib(Asking.EVERY_STEP) is None
    assert slope([(1, 2.0), (1, 3.0)]) is None


def test_the_report_shows_what_was_held_and_every_trial() -> None:
    shown = ServiceResult(
        environment=result().environment,
        batch_size=64,
        steps_per_s=100,
        trials=[trial(), trial(engines=8, spans_rejected=7)],
        engines_held={Asking.LEASES: 4},
    )
    assert ServiceResult.model_validate_json(shown.model_dump_json()) == shown
    text = io.StringIO()
    console = Console(file=text, width=200)
    for table in report.tables(shown):
        console.print(table.to_rich())
    assert "7 spans rejected" in text.getvalue()
    assert "1.00 / 4.00 / 6.00" in text.getvalue()


def test_a_tally_is_cut_without_losing_a_count() -> None:
    tally = Tally()
    tally.steps, tally.spans_sent = 3, 2
    tally.answer_s.append(0.5)
    first = tally.cut()
    tally.steps += 4
    assert (first.steps, first.spans_sent, list(first.answer_s)) == (3, 2, [0.5])
    assert (tally.steps, tally.spans_sent, list(tally.answer_s)) == (4, 0, [])
    first.add(tally)
    assert first.steps == 7


@pytest.mark.parametrize(
    ("leased", "bare", "outage"),
    [("111", 0, 0.0), ("1001", 2, 2.0), ("10101", 2, 1.0), ("100", 2, None)],
)
def test_an_outage_lasts_from_the_first_bare_step_to_the_next_leased_one(
    leased: str, bare: int, outage: float | None
) -> None:
    steps = [SteppedAt(float(at_s), flag == "1") for at_s, flag in enumerate(leased)]
    assert bare_steps(steps) == bare
    assert outage_s(steps) == outage


def test_the_failover_table_has_a_line_for_each_engine() -> None:
    engine = EngineFailover(
        engine_id="bench-1", moved=True, steps_before=900, bare_steps_before=0, bare_steps=5,
        outage_s=0.05, on_survivor_after_s=0.048, model_generation=31,
    )  # fmt: skip
    other = engine.model_copy(update={"moved": False, "on_survivor_after_s": None, "model_generation": 0})
    (first, second) = failover_table([engine, other]).rows
    assert first == ("bench-1", "killed", "0 / 900", "5", "50", "48", "31")
    assert second[1] == "survived"
    assert second[-1] == "-"
