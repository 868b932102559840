"""What the demo's rows say follows from two readings of the engine."""

import io

from rich.console import Console

from benchmarks.demo_view import COLUMNS, LineScreen, Phase, Reading, comparison_table, policy_name, screen
from benchmarks.stats import cell_stats
from benchmarks.workload import LoadKind
from tests.unit.benchmarks.builders import cell, run
from turbospec.v1 import admin_pb2, control_pb2


def reading(at_s: float, tokens: int = 0, **fields: object) -> Reading:
    return Reading(
        at_s, tokens, admin_pb2.EngineStatus(mode=control_pb2.MODE_ENFORCE, policy="goodput", **fields)
    )


def test_a_phase_shows_what_happened_in_it_only() -> None:
    first = reading(10.0, 1000, steps_total=500, committed_tokens_total=900, steps_by_num_steps={3: 500})
    last = reading(
        20.0,
        1600,
        steps_total=700,
        committed_tokens_total=1500,
        accepted_tokens_total=400,
        draft_tokens_total=800,
        steps_by_num_steps={3: 550, 5: 150},
        num_steps=5,
    )
    row = dict(zip(COLUMNS, Phase("chat", 8, first, last).row(), strict=True))
    assert row["seconds"] == "10"
    assert row["steps/s"] == "20.0"
    assert row["length now"] == "5"
    assert row["steps by length"] == "3:25% 5:75%"
    assert row["acceptance"] == "50%"
    assert row["tokens/step"] == "3.00"
    assert row["tok/s"] == "60.0"
    assert row["mode"] == "enforce"


def test_a_phase_that_has_just_begun_has_no_rates() -> None:
    now = reading(5.0)
    row = dict(zip(COLUMNS, Phase("chat", 1, now, now).row(), strict=True))
    assert row["steps/s"] == row["acceptance"] == row["tokens/step"] == "-"


def test_without_a_terminal_lines_come_now_and_then_and_at_the_end_of_a_phase() -> None:
    console = Console(file=io.StringIO(), width=300)
    start, other = reading(0.0), reading(10.0)
    with screen(console) as view:
        assert isinstance(view, LineScreen)
        phases = [Phase("chat", 1, start, reading(float(second))) for second in range(1, 11)]
        for phase in phases:
            view.show([phase])
            view.show([phase])
        view.show([phases[-1], Phase("chat", 8, other, reading(12.0))])
    assert isinstance(console.file, io.StringIO)
    seconds = [line.split("seconds ")[1].split(",")[0] for line in console.file.getvalue().splitlines()]
    assert seconds == ["1", "5", "9", "10", "2"]


def test_the_comparison_names_policies_and_is_relative_to_length_0() -> None:
    runs = [run("nospec", 100), run("fixed:3", 200), run("turbospec", 220)]
    table = comparison_table([cell_stats(cell(*runs, model="m", load=LoadKind.CHAT))])
    assert [(row[0], row[2]) for row in table.rows] == [
        ("length 0: no speculation", "1"),
        ("length 3, always", "2.00 [2.00..2.00]"),
        (policy_name("turbospec"), "2.20 [2.20..2.20]"),
    ]
