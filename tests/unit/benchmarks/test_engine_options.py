"""Options that cannot be meant are refused with their name, before a server is started."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.engine import (
    DEFAULT_ARM_STEPS,
    app,
    check_algorithms,
    check_arms,
    choose_variants,
    parse_numbers,
)
from benchmarks.models import Model
from benchmarks.workload import LoadKind
from tests.unit.benchmarks.builders import cell, result, run

KNOB = Model(
    "knob:0.02", Path("/t"), "float32", (LoadKind.KNOB,), {"STANDALONE": Path("/d"), "EAGLE": Path("/e")}
)
SMOLLM2 = Model("smollm2", Path("/t"), "bfloat16", (LoadKind.CHAT, LoadKind.COPY))


def test_arms_are_for_a_cpu_only() -> None:
    assert [check_arms(None, "cpu"), check_arms(0, "cpu"), check_arms(4, "cpu")] == [DEFAULT_ARM_STEPS, 0, 4]
    assert [check_arms(None, "cuda"), check_arms(0, "cuda")] == [0, 0]
    with pytest.raises(ValueError, match="arms=8: allowed with device cuda is 0"):
        check_arms(8, "cuda")


def test_numbers_are_sorted_and_unique() -> None:
    assert parse_numbers("clients", "8, 1,4,4") == (1, 4, 8)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "a", "-1", "1.5"])
def test_bad_numbers_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="clients="):
        parse_numbers("clients", text)


def test_a_model_runs_all_it_has_a_draft_for() -> None:
    assert check_algorithms(KNOB, None) == ("STANDALONE", "EAGLE")
    assert check_algorithms(SMOLLM2, None) == ("NGRAM",)
    assert check_algorithms(KNOB, ["NGRAM"]) == ("NGRAM",)


@pytest.mark.parametrize("algorithm", ["STANDALONE", "MEDUSA", "eagle"])
def test_an_algorithm_without_a_draft_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match=algorithm):
        check_algorithms(SMOLLM2, [algorithm])


def test_variants_are_chosen_by_kind_or_by_name_in_their_own_order() -> None:
    chosen = choose_variants("EAGLE", (1, 3, 5), "turbospec,fixed,nospec")
    assert [variant.label for variant in chosen] == ["nospec", "fixed:1", "fixed:3", "fixed:5", "turbospec"]
    assert [variant.label for variant in choose_variants("EAGLE", (1, 3), "fixed:3")] == ["fixed:3"]


def test_adaptive_is_left_out_where_it_does_not_exist() -> None:
    assert [v.label for v in choose_variants("NGRAM", (1,), "nospec,adaptive")] == ["nospec"]


@pytest.mark.parametrize("text", ["fixed:9", "ours", "nospec,"])
def test_a_variant_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="variants="):
        choose_variants("EAGLE", (1, 3), text)


@pytest.mark.parametrize("arguments", [["--model", "llama"], ["--model", "knob:7"], ["--clients", "none"]])
def test_the_command_refuses_bad_options(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2


def test_report_renders_a_saved_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result(cell(run("nospec", 10), run("fixed:1", 20))).save(path)
    done = CliRunner().invoke(app, ["report", str(path), "--markdown"])
    assert done.exit_code == 0
    assert "2.000 [2.000..2.000]" in done.output
