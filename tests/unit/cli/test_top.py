"""What `turbospec top` makes of two looks at a service."""

from __future__ import annotations

import io
import math

from rich.console import Console

from control_service.cli import top_view
from control_service.cli.sparkline import sparkline
from control_service.cli.top_history import INTERVALS_KEPT, Histories
from turbospec.v1 import admin_pb2, control_pb2


def status(steps: int, /, epoch: int = 1, **changes: object) -> admin_pb2.EngineStatus:
    """An engine that has run so many steps of length 3, each with 2 tokens."""
    fields: dict[str, object] = {
        "profile": control_pb2.EngineProfile(engine_id="e", epoch=epoch, candidate_num_steps=[0, 3]),
        "connected": True,
        "mode": control_pb2.MODE_ENFORCE,
        "policy": "goodput",
        "num_steps": 3,
        "steps_total": steps,
        "committed_tokens_total": 2 * steps,
        "steps_by_num_steps": {3: steps},
        "steps_by_source": {"lease": steps},
        "goodput_tokens_per_s": 120.0,
        "predicted_goodput_without_speculation_tokens_per_s": 100.0,
        "acceptance_rate": math.nan,
    }
    return admin_pb2.EngineStatus(**{**fields, **changes})  # type: ignore[arg-type]


def drawn(
    answer: admin_pb2.ListEnginesResponse | None, problem: str, histories: Histories, lines_max: int = 40
) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(top_view.screen(answer, problem, "unix:/s", histories, lines_max))
    return console.export_text()


def test_a_sparkline_runs_from_nothing_to_its_top() -> None:
    assert sparkline([0, 1, 2, math.nan, 4]) == "▁▂▄ █"
    assert sparkline([0, 5, 9], top=5.0) == "▁██"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([]) == ""


def test_rates_are_those_between_two_looks() -> None:
    histories = Histories()
    histories.add(10.0, [status(100)])
    assert histories.of("e").newest is None
    histories.add(12.0, [status(150, steps_by_num_steps={3: 130, 0: 20}, steps_by_source={"fallback": 20})])
    newest = histories.of("e").newest
    assert newest is not None
    assert (newest.steps_per_s, newest.tokens_per_s, newest.fallbacks) == (25.0, 50.0, 20)
    assert newest.num_steps == 3 * 30 / 50


def test_an_engine_that_idles_has_no_length() -> None:
    histories = Histories()
    histories.add(0.0, [status(5)])
    histories.add(1.0, [status(5)])
    newest = histories.of("e").newest
    assert newest is not None
    assert math.isnan(newest.num_steps)
    assert "idle" in drawn(admin_pb2.ListEnginesResponse(engines=[status(5)]), "", histories)


def test_a_restart_of_engine_or_service_is_no_negative_rate() -> None:
    histories = Histories()
    for at_s, look in enumerate([status(500), status(3, epoch=2), status(1, epoch=2), status(11, epoch=2)]):
        histories.add(float(at_s), [look])
    assert [interval.steps_per_s for interval in histories.of("e").intervals] == [10.0]


def test_what_is_kept_is_bounded_and_engines_that_went_are_forgotten() -> None:
    histories = Histories()
    for at_s in range(3 * INTERVALS_KEPT):
        histories.add(float(at_s), [status(at_s)])
    assert len(histories.of("e").intervals) == INTERVALS_KEPT
    histories.add(1e6, [])
    histories.add(1e6 + 1, [status(7)])
    assert histories.of("e").newest is None


def test_the_screen_shows_what_an_operator_looks_for() -> None:
    histories = Histories()
    histories.add(0.0, [status(0)])
    now = status(40, fallbacks_by_reason={"deadline": 2}, policy_hold_left_ms=12_000)
    histories.add(1.0, [now])
    shown = drawn(admin_pb2.ListEnginesResponse(service_version="1", engines=[now]), "", histories)
    for expected in (
        "turbospec 1 at unix:/s",
        "connected, enforce, goodput for 12 s more",
        "3 of 0, 3",
        "120 tokens/s, 100 predicted without speculation (+20%)",
        "40/s, 80 tokens/s",
        "2 of 40 steps (deadline 2)",
        "█",
    ):
        assert expected in shown


def test_many_engines_get_a_line_each_and_none_is_left_out_silently() -> None:
    engines = [status(10) for _ in range(12)]
    for place, engine in enumerate(engines):
        engine.profile.engine_id = f"engine-{place:02}"
    engines[3].connected = False
    histories = Histories()
    histories.add(0.0, engines)
    answer = admin_pb2.ListEnginesResponse(engines=engines)
    shown = drawn(answer, "", histories, lines_max=20).splitlines()
    assert sum("engine-" in line for line in shown) == 12
    assert "gone" in next(line for line in shown if "engine-03" in line)
    shown = drawn(answer, "", histories, lines_max=10).splitlines()
    assert len(shown) <= 10
    assert sum("engine-" in line for line in shown) == 7
    assert "and 5 more" in shown[-1]


def test_without_a_service_the_screen_says_so() -> None:
    shown = drawn(None, "no control service answers", Histories())
    assert "no service: no control service answers" in shown
    assert "trying again" in shown


def test_a_line_says_the_same_to_a_file() -> None:
    line = top_view.line(status(40))
    assert "\n" not in line
    for expected in ("e  connected  enforce  goodput", "length 3", "(+20%)", "fallbacks 0 of 40 steps"):
        assert expected in line


def test_durations_are_readable() -> None:
    assert [top_view.duration(s) for s in (5, 300, 5_400, 180_000)] == ["5 s", "5 min", "1.5 h", "2.1 d"]
