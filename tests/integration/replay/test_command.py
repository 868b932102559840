"""`turbospec replay` as a user runs it, on the shipped traces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.traces import generate
from control_service.cli.errors import ExitCode
from control_service.replay.plan import profile_of
from control_service.store.step_trace import TracedStep, create_step_trace
from tests.unit.replay.builders import CANDIDATES, cell
from tests.unit.replay.test_recorded import record_steps, recorded_world

TRACES = Path(generate.__file__).parent
STEP_TIME = ("--step-time", str(TRACES / "h100-llama-3.1-8b.json"))
CHAT = ("--trace", str(TRACES / "chat.jsonl"))
SUMMARY = ("--trace", str(TRACES / "summary.jsonl"))


def _replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "control_service.replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def _rows(path: Path) -> dict[tuple[str, str, str, str], dict[str, object]]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {(row["trace"], row["drafter"], row["concurrency"], row["policy"]): row for row in rows}


def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    """A run belongs to its seed, wherever it runs; and every cell has every policy."""
    found = []
    for workers in ("1", "2"):
        path = tmp_path / f"{workers}.json"
        options = ("--seconds", "2", "--seeds", "1,2", "--concurrency", "1,8", "--candidates", "0,1,3")
        policies = ("--policy", "goodput", "--policy", "static:1")
        done = _replay(
            *STEP_TIME, *CHAT, *SUMMARY, *options, *policies, "--workers", workers, "--json", str(path)
        )
        assert done.returncode == 0, done.stderr
        assert "chat eagle3 1" in done.stdout
        found.append(_rows(path))
    assert found[0] == found[1]
    contenders = ("fixed:0", "fixed:1", "fixed:3", "clairvoyant", "perfect_models", "goodput", "static:1")
    assert set(found[0]) == {
        (trace, drafter, concurrency, policy)
        for trace in ("chat", "summary")
        for drafter in ("eagle3", "ngram")
        for concurrency in ("1", "8")
        for policy in contenders
    }
    static, fixed = (found[0]["chat", "ngram", "8", policy] for policy in ("static:1", "fixed:1"))
    assert static["tokens_per_s"] == fixed["tokens_per_s"]


def test_phases_alternate_between_the_traces(tmp_path: Path) -> None:
    """One cell for all of it, with a row a phase."""
    path = tmp_path / "phases.json"
    options = ("--phases", "1:1,16:1,4:1", "--seeds", "1", "--drafter", "eagle3", "--workers", "1")
    done = _replay(*STEP_TIME, *CHAT, *SUMMARY, *options, "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = _rows(path)
    assert {key[:2] for key in rows} == {("chat+summary", "eagle3")}
    phases = rows["chat+summary", "eagle3", "1:1,16:1,4:1", "goodput"]["phases"]
    assert isinstance(phases, list)
    assert [(phase["concurrency"], phase["group"]) for phase in phases] == [(1, 0), (16, 1), (4, 0)]
    assert "by phase" in done.stdout


def test_synthetic_acceptance_reports_the_recovery(tmp_path: Path) -> None:
    """Nothing accepted, then most: the time until the choice is good again is a number."""
    path = tmp_path / "recovery.json"
    options = ("--acceptance", "0:2,0.9:4", "--seconds", "6", "--concurrency", "4", "--seeds", "1")
    done = _replay(*STEP_TIME, *options, "--drafter", "eagle3", "--workers", "1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = _rows(path)
    assert rows["synthetic", "eagle3", "4", "fixed:7"]["recoveries_s"] == [pytest.approx(0.0, abs=0.1)]
    assert rows["synthetic", "eagle3", "4", "fixed:0"]["recoveries_s"] == [None]


def test_a_load_that_comes_up_at_once_does_not_turn_the_length_over(tmp_path: Path) -> None:
    """128 requests that begin together: the n-gram drafter has more to copy from with every step."""
    path = tmp_path / "ramp.json"
    options = ("--drafter", "ngram", "--concurrency", "128", "--seeds", "1-5", "--seconds", "5")
    done = _replay(*STEP_TIME, *SUMMARY, *options, "--json", str(path))
    assert done.returncode == 0, done.stderr
    goodput = _rows(path)["summary", "ngram", "128", "goodput"]
    steps = sum(goodput["steps_by_length"].values()) / 5  # type: ignore[attr-defined]
    assert goodput["switches_per_1000_steps"] * steps / 1000 == pytest.approx(1, abs=0.1)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*STEP_TIME,), ["--trace", "--acceptance", "--recorded", "exactly one"]),
        ((*STEP_TIME, *CHAT, "--drafter", "medusa"), ["--drafter", "'medusa'", "eagle3, ngram"]),
        ((*STEP_TIME, *CHAT, "--policy", "best"), ["--policy", "'best'", "goodput"]),
        ((*STEP_TIME, *CHAT, "--policy", "static:4"), ["--policy", "'4'", "(0, 1, 2, 3, 5, 7)"]),
        ((*STEP_TIME, *CHAT, "--policy", "static:num"), ["--policy", "'num'", "candidates"]),
        ((*STEP_TIME, *CHAT, "--candidates", "1,2"), ["--candidates", "'1,2'", "0 first"]),
        ((*STEP_TIME, *CHAT, "--phases", "1"), ["--phases", "'1'", "CONCURRENCY:SECONDS"]),
        ((*STEP_TIME, *CHAT, "--drift", "1,20:1"), ["--drift", "'1,20:1'", "0.1 to 10"]),
        ((*STEP_TIME, *CHAT, "--json", "absent/out.json"), ["--json", "absent/out.json", "directory"]),
        (("--step-time", "absent.json", *CHAT), ["absent.json", "cannot be read"]),
    ],
)
def test_an_input_that_cannot_be_used_ends_with_its_name(
    arguments: tuple[str, ...], expected: list[str]
) -> None:
    """Before anything runs, with the exit code of a usage error and no traceback."""
    done = _replay(*arguments)
    assert done.returncode == ExitCode.USAGE
    assert "Traceback" not in done.stderr
    for part in expected:
        assert part in done.stderr


def test_a_recording_of_the_session_can_be_replayed(tmp_path: Path) -> None:
    """What `turbospec record` writes, `turbospec replay` reads: concurrency and lengths come from it."""
    recording = tmp_path / "steps.jsonl"
    steps = record_steps()
    profile = profile_of(cell(recorded_world()), CANDIDATES)
    writer = create_step_trace(recording)
    writer.add_engine(profile)
    for step in steps:
        writer.add(TracedStep(profile.engine_id, profile.epoch, step))
    writer.close()
    path = tmp_path / "result.json"
    options = ("--seconds", "2", "--seeds", "1", "--workers", "1", "--json", str(path))
    done = _replay("--recorded", str(recording), *options)
    assert done.returncode == 0, done.stderr
    rows = _rows(path)
    # Ten seconds each of 1, 2, 4, 8, 16 and 32, twice: half of the time is spent at 4 or below.
    assert {key[:3] for key in rows} <= {(profile.engine_id, "recorded", size) for size in ("4", "8")}
    assert {f"fixed:{length}" for length in CANDIDATES} <= {key[3] for key in rows}


def test_a_recording_that_is_none_is_named(tmp_path: Path) -> None:
    """An acceptance trace given as a recording is a likely mistake."""
    done = _replay("--recorded", str(TRACES / "chat.jsonl"))
    assert done.returncode == ExitCode.USAGE
    assert "chat.jsonl" in done.stderr
    assert "turbospec.steps" in done.stderr
    done = _replay("--recorded", str(tmp_path / "absent.jsonl"))
    assert done.returncode == ExitCode.USAGE
    assert "absent.jsonl: cannot be read" in done.stderr
