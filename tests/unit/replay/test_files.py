"""Inputs that cannot be used are named: file, line, field, value, what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from control_service.replay import parse
from control_service.replay.errors import ReplayInputError
from control_service.replay.files import load_step_times, load_trace
from control_service.replay.sources import AcceptanceSpan

GOOD = {"id": "a", "prompt_tokens": 10, "generated_tokens": 3, "eagle3": [3, 2, 1], "ngram": [1, 1]}
STEP_TIMES = {
    "verify": {"context_s_per_token": 1e-8, "token_s": 1e-5, "fixed_s": 1e-3},
    "draft": {"eagle3": {"fixed_s": 1e-3}},
}


def _trace(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "made.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_trace_is_read_by_drafter(tmp_path: Path) -> None:
    """The output ends with the shorter of generated_tokens and the list."""
    trace = load_trace(_trace(tmp_path, GOOD, "", GOOD | {"generated_tokens": 2}))
    assert trace.name == "made"
    assert [request.entries for request in trace.by_drafter["eagle3"]] == [(3, 2, 1), (3, 2)]
    assert [request.entries for request in trace.by_drafter["ngram"]] == [(1, 1), (1, 1)]
    assert trace.by_drafter["ngram"][0].prompt_tokens == 10


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt_tokens": -1}, ["made.jsonl:2", "prompt_tokens", "-1", "greater than or equal to 0"]),
        ({"generated_tokens": "many"}, ["made.jsonl:2", "generated_tokens", "'many'"]),
        ({"eagle3": [3, 0, 1]}, ["made.jsonl:2", "eagle3.1", "0", "at least 1"]),
        ({"eagle3": [3, 1.5]}, ["made.jsonl:2", "eagle3.1", "1.5", "whole numbers"]),
        ({"eagle3": []}, ["made.jsonl:2", "eagle3", "[]"]),
        ({"other": [1, 1]}, ["made.jsonl:2", "drafters", "other", "eagle3"]),
    ],
)
def test_a_line_that_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, object], expected: list[str]
) -> None:
    """Nobody should have to bisect a trace file."""
    with pytest.raises(ReplayInputError) as error:
        load_trace(_trace(tmp_path, GOOD, GOOD | changes))
    for part in expected:
        assert part in str(error.value)


def test_a_missing_field_broken_json_and_no_file_are_named(tmp_path: Path) -> None:
    """Each with its place."""
    with pytest.raises(ReplayInputError, match=r"made\.jsonl:1: prompt_tokens: missing"):
        load_trace(_trace(tmp_path, {"id": "a", "generated_tokens": 3, "eagle3": [1]}))
    with pytest.raises(ReplayInputError, match=r"made\.jsonl:1"):
        load_trace(_trace(tmp_path, "{"))
    with pytest.raises(ReplayInputError, match="no requests"):
        load_trace(_trace(tmp_path, ""))
    with pytest.raises(ReplayInputError, match="cannot be read"):
        load_trace(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"overhead_s": -1.0}, ["overhead_s", "-1.0", "greater than or equal to 0"]),
        ({"noise": {"outlier_share": 0.9}}, ["noise.outlier_share", "0.9", "0.5"]),
        ({"draft": {}}, ["draft", "{}"]),
        ({"overhead": 1.0}, ["overhead", "1.0"]),
        ({"verify": {"token_s": 1.0, "fixed_s": 1.0}}, ["verify.context_s_per_token", "missing"]),
    ],
)
def test_a_step_time_model_that_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, object], expected: list[str]
) -> None:
    """A misspelt term must not silently be 0."""
    path = tmp_path / "times.json"
    path.write_text(json.dumps(STEP_TIMES | changes))
    with pytest.raises(ReplayInputError) as error:
        load_step_times(path)
    for part in ["times.json", *expected]:
        assert part in str(error.value)


def test_schedules_and_lists_are_parsed() -> None:
    """As written on the command line."""
    assert parse.parse_phases("1:10,64:2.5") == ((1, 10.0), (64, 2.5))
    assert parse.parse_seeds("1-3,7,2") == (1, 2, 3, 7)
    assert parse.parse_concurrencies("1,128") == (1, 128)
    assert parse.parse_acceptance("0:30,0.7:30") == (
        AcceptanceSpan((0.0,), 30.0),
        AcceptanceSpan((0.7,), 30.0),
    )
    assert parse.parse_acceptance("0.05") == (AcceptanceSpan((0.05,), float("inf")),)


@pytest.mark.parametrize(
    ("call", "text", "option"),
    [
        (parse.parse_phases, "1:10,64", "--phases"),
        (parse.parse_phases, "0:10", "--phases"),
        (parse.parse_phases, "1:nan", "--phases"),
        (parse.parse_seeds, "3-1", "--seeds"),
        (parse.parse_seeds, "a", "--seeds"),
        (parse.parse_seeds, "1-100000", "--seeds"),
        (parse.parse_concurrencies, "1,0", "--concurrency"),
        (parse.parse_concurrencies, "", "--concurrency"),
        (parse.parse_acceptance, "1.1", "--acceptance"),
        (parse.parse_acceptance, "0,0.7:30", "--acceptance"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(call: object, text: str, option: str) -> None:
    """Option, value, and what is allowed."""
    assert callable(call)
    with pytest.raises(ReplayInputError, match=rf"{option}: .* must be .*as in"):
        call(text)
