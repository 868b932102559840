"""The tables say what was measured, and say so where nothing was."""

import io

from rich.console import Console

from benchmarks.report import Table, print_report, render_markdown, summary_table, tables
from benchmarks.results import BenchResult
from benchmarks.stats import cell_stats
from benchmarks.workload import LoadKind
from tests.unit.benchmarks.builders import cell, control, result, run


def full_result() -> BenchResult:
    runs = []
    for number in range(3):
        runs += [
            run("nospec", 100, number=number, digest="a"),
            run("fixed:1", 150, number=number, digest="a"),
        ]
        runs += [run("fixed:3", 200, number=number, digest="b")]
        delta = control(100, switches=1, steps_by_num_steps={0: 10, 3: 90}, fallbacks_by_reason={"late": 2})
        runs += [run("turbospec", 210, number=number, digest="a", control=delta)]
    return result(cell(*runs))


def rows(table: Table) -> dict[str, dict[str, str]]:
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_summary_compares_with_the_best_fixed_length_and_with_nospec() -> None:
    (line,) = rows(summary_table([cell_stats(found) for found in full_result().cells])).values()
    assert line["best fixed"] == "fixed:3"
    assert line["turbospec / best fixed"] == "1.050 [1.050..1.050]"
    assert line["turbospec / nospec"] == "2.100 [2.100..2.100]"
    assert line["adaptive / best fixed"] == "-"


def test_several_cells_have_a_geometric_mean() -> None:
    cells = [cell_stats(cell(run("fixed:1", 100), run("turbospec", tokens))) for tokens in (50, 200)]
    *_, line = summary_table(cells).rows
    found = dict(zip(summary_table(cells).columns, line, strict=True))
    assert found["cell"] == "geometric mean"
    assert found["turbospec / best fixed"].startswith("1.000 [")
    assert found["turbospec / nospec"] == "-"


def test_each_variant_has_a_line_and_unequal_outputs_show() -> None:
    _, speed, _ = tables(full_result())
    found = rows(speed)
    assert list(found) == ["nospec", "fixed:1", "fixed:3", "turbospec"]
    assert found["fixed:3"]["/ best fixed"] == "1"
    assert found["turbospec"]["equal"] == "3/3"
    assert found["fixed:3"]["equal"] == "0/3"


def test_outputs_of_other_models_are_not_called_equal_or_unequal() -> None:
    """bf16 outputs differ between plain runs: the comparison would accuse the innocent."""
    stats = cell(
        run("nospec", 1, digest="a"), run("fixed:1", 1, digest="b"), model="smollm2", load=LoadKind.CHAT
    )
    assert rows(tables(result(stats))[1])["fixed:1"]["equal"] == "-"


def test_the_control_table_has_switches_shares_and_fallbacks() -> None:
    _, _, table = tables(full_result())
    found = {row[0]: row[1] for row in table.rows}
    assert found["switches per 1,000 steps"] == "10.0"
    assert found["share of steps by length"] == "0: 10.0%, 3: 90.0%"
    assert found["fallbacks by reason"] == "late: 6"
    assert found["control on the step thread, us p50/p99/max"] == "10 / 20 / 30 (of 100)"


def test_an_interrupted_result_can_be_shown() -> None:
    """Results are saved after each round: the last cell may have no run at all."""
    partial = result(cell(run("nospec", 1)), cell())
    assert "fixed" not in [row[0] for row in tables(partial)[1].rows]
    render_markdown(partial)


def test_markdown_rows_have_as_many_fields_as_their_header() -> None:
    for table in tables(full_result()):
        lines = table.to_markdown().splitlines()[2:]
        assert {line.count("|") for line in lines} == {len(table.columns) + 1}


def test_markdown_says_what_goodput_means_and_where_it_was_measured() -> None:
    text = render_markdown(full_result())
    assert text.count("committed output tokens per second") == 1
    assert "a processor, 2 cores" in text
    assert "commit abc" in text


def test_the_terminal_gets_every_table() -> None:
    console = Console(file=io.StringIO(), width=200)
    print_report(full_result(), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for table in tables(full_result()):
        assert table.title in text
