"""Recorded step traces: what is written is read again, and what is odd is refused by place and field."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_service.store.step_trace import (
    ROWS_PER_GROUP,
    SUFFIXES,
    StepTraceError,
    TracedStep,
    create_step_trace,
    read_step_trace,
)
from tests.unit.control_service.factories import observation, profile

FIRST, RESTARTED = profile(), profile(epoch=2, graph_batch_sizes=(1, 2, 4))


def steps(count: int, epoch: int = 1) -> list[TracedStep]:
    return [
        TracedStep(
            "engine",
            epoch,
            observation(
                index, 3, (3, index % 4), duration_s=0.01 + index * 1e-5, first_step=(False, True),
                source="fallback", fallback_reason="deadline", previous_num_steps=-1,
            ),
        )
        for index in range(1, count + 1)
    ]  # fmt: skip


def write(path: Path, *, count: int = 5) -> list[TracedStep]:
    writer = create_step_trace(path)
    writer.add_engine(FIRST)
    before, after = steps(count), steps(count, epoch=2)
    for step in before:
        writer.add(step)
    writer.set_dropped(3)
    writer.add_engine(RESTARTED)
    for step in after:
        writer.add(step)
    writer.close()
    return before + after


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_is_read_again(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"steps{suffix}"
    # More than a row group of Parquet.
    written = write(path, count=ROWS_PER_GROUP + 7)
    trace = read_step_trace(path)
    assert list(trace.steps) == written
    assert trace.engines == (FIRST, RESTARTED)
    assert trace.dropped_steps == 3
    assert trace.profile_of(trace.steps[-1]) == RESTARTED


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_without_steps_is_a_trace(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"steps{suffix}"
    create_step_trace(path).close()
    assert read_step_trace(path).steps == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_exists_is_not_written_over(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"steps{suffix}"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        create_step_trace(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["steps.csv", "steps", "steps.gz"])
def test_an_unknown_suffix_names_the_known_ones(name: str, tmp_path: Path) -> None:
    for act in (create_step_trace, read_step_trace):
        with pytest.raises(StepTraceError, match=r"allowed: \.jsonl, \.jsonl\.gz, \.parquet"):
            act(tmp_path / name)


def test_without_pyarrow_parquet_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(StepTraceError, match=r"pip install 'turbospec\[parquet\]'"):
        create_step_trace(tmp_path / "steps.parquet")


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda item: item.update({name: value})


@pytest.mark.parametrize(
    ("line", "change", "said"),
    [
        (1, _set("version", 2), "format and version are"),
        (2, _set("engine", {**json.loads("{}")}), "line 2: fields missing or unknown: accelerator"),
        (2, lambda item: item["engine"].update(candidate_num_steps=[1, 2]), "profile.candidate_num_steps"),
        (2, lambda item: item["engine"].update(max_running_requests="16"), "max_running_requests is '16'"),
        (3, _set("duration_s", float("nan")), "line 3: duration is not what"),
        (3, _set("duration_s", "0.1"), "line 3: duration_s is '0.1'; allowed: float"),
        (3, _set("batch_size", True), "line 3: batch_size is True; allowed: int"),
        (3, _set("accepted_drafts", [3, 1.0]), "line 3: accepted_drafts is 1.0"),
        (3, _set("accepted_drafts", [3, 4]), "line 3: accepted_drafts is not what"),
        (3, _set("num_steps", 4), "line 3: num_steps is not what"),
        (3, _set("epoch", 9), "line 3: engine_id 'engine' of epoch 9 was not introduced"),
        (3, _set("surprise", 1), "line 3: fields missing or unknown: surprise"),
        (3, lambda item: item.pop("source"), "line 3: fields missing or unknown: source"),
    ],
)
def test_odd_content_is_refused_by_line_and_field(
    line: int, change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "steps.jsonl"
    write(path)
    items = [json.loads(text) for text in path.read_text().splitlines()]
    change(items[line - 1])
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    with pytest.raises(StepTraceError) as caught:
        read_step_trace(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_off_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"steps{suffix}"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 20])
    with pytest.raises(StepTraceError):
        read_step_trace(path)


@pytest.mark.parametrize("content", ["", "[]\n", "nonsense\n"])
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(content)
    with pytest.raises(StepTraceError):
        read_step_trace(path)
