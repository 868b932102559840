"""The GPU script as far as it goes without one: its plan, its configurations and its arithmetic."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.gpu.__main__ import app, tables
from benchmarks.gpu.acceptance import RateSchedule
from benchmarks.gpu.configs import write_llama_8b
from benchmarks.gpu.crediting import check_crediting
from benchmarks.gpu.loss import kill_result
from benchmarks.gpu.plan import ACCEPTANCE, GPU_FLAGS, STAGES, launches
from benchmarks.gpu.results import GpuResult, GridResult
from benchmarks.gpu.setup_check import check_flags, check_model, parameters_of
from benchmarks.gpu.step_grid import GridCell, error_against, fit_error, fit_grid
from control_service.replay.files import load_step_times
from sglang_patch.models.hf import transformers
from tests.unit.benchmarks.builders import request, result
from turbospec.v1.admin_pb2 import ObservedStep

LENGTHS = (0, 1, 2, 3, 5, 7)


def test_a_dry_run_prints_every_server_and_checks_it_without_a_gpu(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--dry-run", "--output", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    planned = [line for line in done.output.splitlines() if "benchmarks.gpu.launch" in line]
    # Three of ours, and for each acceptance: none, five fixed lengths, adaptive, ours.
    assert len(planned) == 3 + len(ACCEPTANCE) * 8
    assert all("--load-format dummy" in line and "--attention-backend triton" in line for line in planned)
    assert all("SGLANG_SIMULATE_ACC_LEN=1" in line for line in planned)
    assert sum("TURBOSPEC_CONTROL_ADDRESS" in line for line in planned) == 3 + len(ACCEPTANCE)
    assert "TURBOSPEC_BENCH_ACCEPTANCE=0.4:15,0.85:15" in done.output
    assert "every flag is known to this SGLang" in done.output
    assert not (tmp_path / "out.json").exists()


def test_a_flag_that_sglang_does_not_know_is_found_before_anything_starts(tmp_path: Path) -> None:
    model = write_llama_8b(tmp_path)
    (first, *_) = launches(
        model, tmp_path, device="cuda", stages=STAGES, flags=(*GPU_FLAGS, "--no-such-flag")
    )
    with pytest.raises(ValueError, match="no-such-flag"):
        check_flags(first.setup.argv(first.variant, 30000)[3:])


@pytest.mark.parametrize(
    "arguments", [["--stage", "no"], ["--acceptance", "odd"], ["--clients", "0"], ["--model", "x"]]
)
def test_bad_options_are_named(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--dry-run", "--output", str(tmp_path / "out.json"), *arguments])
    assert done.exit_code == 2


def test_the_model_has_the_shape_of_llama_8b(tmp_path: Path) -> None:
    model = write_llama_8b(tmp_path)
    assert "8.03B parameters, head of 1 layer" in check_model(model)
    config = transformers.AutoConfig.from_pretrained(model.target, local_files_only=True)
    assert parameters_of(config) == 8_030_261_248


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = write_llama_8b(tmp_path)
    path = model.drafts["EAGLE"] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 2048}))
    with pytest.raises(ValueError, match="hidden_size=2048"):
        check_model(model)


def test_acceptance_follows_the_clock_and_the_chain() -> None:
    schedule = RateSchedule.parse("0.25:10,0.75:10")
    assert [schedule.at(at_s) for at_s in (0.0, 9.9, 10.0, 19.9, 20.0)] == [0.25, 0.25, 0.75, 0.75, 0.25]
    now_s = 15.0
    sample = schedule.sampler(lambda: now_s)
    drawn = [sample(1.0, "match-expected", 6) for _ in range(20_000)]
    assert set(drawn) <= set(range(1, 7))
    expected = sum(0.75**position for position in range(6))
    assert sum(drawn) / len(drawn) == pytest.approx(expected, rel=0.03)
    always = RateSchedule.parse("1").sampler()
    assert {always(1.0, "", width) == width for width in range(1, 9)} == {True}


@pytest.mark.parametrize("text", ["", "1.5", "a", "0.5:0", "0.5,0.6", "0.5:10,0.6", "-0.1", "nan"])
def test_an_odd_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TURBOSPEC_BENCH_ACCEPTANCE"):
        RateSchedule.parse(text)


def grid() -> list[GridCell]:
    """Step times of a linear machine with a little scatter, some slow steps, and one empty cell."""
    drawn = random.Random(3)
    cells = [GridCell(num_steps=1, batch_size=500, prompt_tokens=9)]
    for length in LENGTHS:
        for batch in (1, 8, 32, 128):
            for prompt in (512, 4_096):
                cell = GridCell(num_steps=length, batch_size=batch, prompt_tokens=prompt)
                for number in range(40):
                    context = batch * (prompt + number)
                    seconds = 0.006 + 4e-8 * context + 2e-5 * batch * (length + 1) + 7e-4 * length
                    slow = 3.0 if drawn.random() < 0.02 else 1.0
                    cell.context_tokens.append(context)
                    cell.seconds.append(seconds * math.exp(drawn.gauss(0, 0.01)) * slow)
                cells.append(cell)
    return cells


def test_the_grid_becomes_a_model_that_replay_reads(tmp_path: Path) -> None:
    cells = grid()
    model = fit_grid(cells, "synthetic")
    error = fit_error(model, cells)
    assert error.cells == len(cells) - 1
    assert error.highest < 0.02
    assert model.verify.fixed_s == pytest.approx(0.006, rel=0.05)
    assert model.draft["eagle"].fixed_s == pytest.approx(7e-4, rel=0.1)
    assert model.noise.lognormal_sigma == pytest.approx(0.01, rel=0.3)
    assert 0.005 < model.noise.outlier_share < 0.05
    path = tmp_path / "times.json"
    path.write_text(model.model_dump_json())
    assert load_step_times(path) == model


def test_too_few_cells_are_no_model() -> None:
    with pytest.raises(ValueError, match="cells=5"):
        fit_grid(grid()[1:6], "")
    with pytest.raises(ValueError, match="cells=0"):
        error_against(grid(), lambda cell: None)


def step(index: int, length: int, previous: int, accepted: list[int]) -> ObservedStep:
    return ObservedStep(
        step_index=index, num_steps=length, previous_num_steps=previous, accepted_drafts=accepted
    )


def test_a_record_credited_with_its_neighbours_length_is_found() -> None:
    right = [step(1, 3, -1, [3, 3]), step(2, 3, 3, [3, 3]), step(3, 1, 3, [1, 1]), step(4, 0, 1, [0, 0])]
    found = check_crediting(right)
    assert (found.steps, found.changes, found.wrong_steps, found.faults) == (4, 2, [], [])
    wrong = check_crediting([*right, step(5, 0, 0, [3, 3])])
    assert wrong.wrong_steps == [5]
    assert wrong.faults
    assert check_crediting(right[:2]).faults == ["no length changed, so nothing was shown"]


def test_a_kill_is_seen_in_rates_and_gaps() -> None:
    record = request([(at_s / 10, 2) for at_s in range(10, 20)] + [(at_s / 10, 1) for at_s in range(24, 30)])
    seen = kill_result([record], 1.0, 2.0, 3.0)
    assert (seen.tokens_per_s_before, seen.tokens_per_s_after) == (20.0, 6.0)
    assert seen.gap_max_before_s == pytest.approx(0.1)


def test_all_stages_are_shown() -> None:
    cells = grid()
    model = fit_grid(cells, "")
    error = fit_error(model, cells)
    found = GpuResult(
        environment=result().environment,
        settings={},
        grid_cells=cells,
        grid=GridResult(model=model, model_error=error, online_error=error),
        crediting=check_crediting([step(1, 3, 1, [3])]),
        kill=kill_result([request([(1.0, 1), (2.5, 1)])], 0.0, 2.0, 3.0),
    )
    assert GpuResult.model_validate_json(found.model_dump_json()) == found
    assert [table.title for table in tables(found)] == [
        "step times", "error against the grid", "crediting", "the service is killed",
    ]  # fmt: skip
