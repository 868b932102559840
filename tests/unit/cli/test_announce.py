"""What a new user is told to type works as printed."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from control_service.cli.announce import announce, example_request, status_command
from tests.unit.cli.factory import up_options
from tests.unit.cli.test_state import STATE


def test_the_example_request_is_one_shell_word_per_argument_with_the_right_model() -> None:
    words = shlex.split(example_request(replace(STATE, model="it's a model")))
    assert words[0] == "curl"
    assert "http://127.0.0.1:30000/v1/chat/completions" in words
    body = json.loads(words[-1])
    assert body["model"] == "it's a model"
    assert body["messages"][0]["role"] == "user"


def test_a_run_elsewhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shlex.split(status_command(tmp_path / ".run"))[1:] == ["status"]
    assert shlex.split(status_command(tmp_path / "my run"))[1:] == ["status", "--run-dir", "my run"]


def test_programs_get_the_state_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    announce(STATE, up_options(), as_json=True)
    assert json.loads(capsys.readouterr().out)["control_address"] == STATE.control_address


def test_a_controlled_run_names_its_page_and_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    announce(STATE, up_options(), as_json=False)
    shown = capsys.readouterr().out.split()
    assert shown[shown.index("page") + 1] == "http://127.0.0.1:9464/"
    assert shown[shown.index("metrics") + 1] == "http://127.0.0.1:9464/metrics"


def test_an_uncontrolled_run_promises_no_control(capsys: pytest.CaptureFixture[str]) -> None:
    announce(replace(STATE, control_address="", metrics_url=""), up_options(), as_json=False)
    shown = capsys.readouterr().out
    assert "curl" in shown
    assert "metrics" not in shown
    assert "status" not in shown
