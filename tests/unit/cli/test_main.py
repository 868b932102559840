"""The commands that talk to a service: what they ask it, what they print, and how they fail."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from control_service.cli.errors import ExitCode
from control_service.cli.main import app
from turbospec.v1 import admin_pb2, admin_pb2_grpc, control_pb2

ENGINE = admin_pb2.EngineStatus(
    profile=control_pb2.EngineProfile(
        engine_id="host:1",
        target_model="knob",
        draft_model="draft",
        dtype="float32",
        accelerator="cpu",
        algorithm="STANDALONE",
        candidate_num_steps=[0, 1, 3],
    ),
    connected=True,
    mode=control_pb2.MODE_CANARY,
    canary_percent=20,
    policy="static",
    policy_parameters={"num_steps": "3"},
    num_steps=3,
    batch_size=8,
    steps_by_source={"lease": 90, "fallback": 10},
    fallbacks_by_reason={"deadline": 10},
    acceptance_rate=0.625,
    mean_accepted_length_tokens=2.875,
    goodput_tokens_per_s=123.4,
    predicted_goodput_tokens_per_s=math.nan,
    step_control_us=admin_pb2.Quantiles(count=100, p50=33, p99=150.2, max=900),
)


class RecordingService(admin_pb2_grpc.SpeculationAdminServiceServicer):
    """Knows `ENGINE` alone, and keeps what it was asked."""

    def __init__(self) -> None:
        self.engines = [ENGINE]
        self.reason = "best_goodput"
        self.candidates = [
            admin_pb2.CandidatePrediction(
                num_steps=length,
                expected_tokens=10.0 + length,
                expected_step_s=0.020,
                goodput_tokens_per_s=goodput,
                goodput_standard_error_tokens_per_s=2.5,
                regret_ratio=1 - goodput / 99.5,
                tokens_standard_error_ratio=0.1,
                step_standard_error_ratio=0.01,
            )
            for length, goodput in ((0, 50.0), (1, 90.0), (3, 99.5))
        ]
        self.margin = admin_pb2.Margin(
            runner_up_num_steps=1,
            gain_ratio=0.106,
            gain_standard_error_ratio=0.02,
            gain_standard_errors=5.04,
        )
        self.asked: list[object] = []

    def ListEngines(self, request, context):
        return admin_pb2.ListEnginesResponse(service_version="1", engines=self.engines)

    def ExplainDecision(self, request, context):
        self.asked.append(request)
        if request.decision_id > 7:
            context.abort(grpc.StatusCode.NOT_FOUND, f"decision {request.decision_id} is no longer kept")
        return admin_pb2.ExplainDecisionResponse(
            engine_id=request.engine_id,
            decision_id=7,
            step_index=41,
            batch_size=8,
            waiting_requests=2,
            policy="goodput",
            num_steps=3,
            reason=self.reason,
            candidates=self.candidates,
            margin=self.margin,
        )

    def SetMode(self, request, context):
        self.asked.append(request)
        return admin_pb2.SetModeResponse(mode=request.mode, canary_percent=request.canary_percent)

    def SetPolicy(self, request, context):
        self.asked.append(request)
        return admin_pb2.SetPolicyResponse(policy=request.policy)


@pytest.fixture
def service() -> Iterator[RecordingService]:
    service = RecordingService()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    admin_pb2_grpc.add_SpeculationAdminServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


def run(service: RecordingService, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--control-address", service.address])


def test_status_shows_what_an_operator_looks_for(service: RecordingService) -> None:
    shown = run(service, "status").stdout
    for expected in ("host:1", "STANDALONE", "canary 20 %", "3 of 0, 1, 3", "62.5%", "2.88", "123"):
        assert expected in shown
    assert "static (num_steps=3)" in shown
    assert "lease 90, fallback 10" in shown
    assert "deadline 10" in shown
    assert "p50 33, p99 150, max 900" in shown


def test_status_as_json_is_the_services_answer(service: RecordingService) -> None:
    answer = json.loads(run(service, "status", "--json").stdout)
    assert answer["engines"][0]["profile"]["engine_id"] == "host:1"
    assert answer["engines"][0]["predicted_goodput_tokens_per_s"] is None


def test_status_without_engines_says_so(service: RecordingService) -> None:
    service.engines = []
    assert "no engine has connected" in run(service, "status").stdout


def test_explain_takes_the_only_engine_and_the_newest_decision(service: RecordingService) -> None:
    shown = run(service, "explain").stdout
    assert service.asked == [admin_pb2.ExplainDecisionRequest(engine_id="host:1", decision_id=0)]
    for expected in (
        "length 3 for step 41",
        "length 3 has the highest expected goodput (best_goodput)",
        "+10.6% ± 2.0% against length 1, +5.0 standard errors",
        "8 requests, 0 tokens of context, 2 requests waiting",
        "13 ± 1.3",
        "20 ± 0.2",
        "99.5 ± 2.5",
        "49.7%",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("hold_within_uncertainty", "what length 1 promises more is within its uncertainty"),
        ("guard", "speculation was measured to lose"),
        ("something_new", "policy goodput says so (something_new)"),
    ],
)
def test_explain_says_why_in_a_sentence(reason: str, said: str, service: RecordingService) -> None:
    service.reason = reason
    # Long lines are wrapped at the width of the terminal.
    assert said in " ".join(run(service, "explain").stdout.split())


def test_explain_without_models_has_no_numbers_to_show(service: RecordingService) -> None:
    service.reason, service.candidates, service.margin = "cold_start", [], None
    shown = run(service, "explain").stdout
    assert "not known, the models were not ready" in shown
    assert "tokens/step" not in shown


def test_explain_as_json_is_the_services_answer(service: RecordingService) -> None:
    answer = json.loads(run(service, "explain", "--json").stdout)
    assert answer["margin"]["runner_up_num_steps"] == 1
    assert [candidate["num_steps"] for candidate in answer["candidates"]] == [0, 1, 3]


def test_explain_among_several_engines_asks_which(service: RecordingService) -> None:
    service.engines = [ENGINE, ENGINE]
    result = run(service, "explain")
    assert result.exit_code == ExitCode.USAGE
    assert "engines: host:1, host:1" in result.stderr


def test_a_refusal_is_passed_on(service: RecordingService) -> None:
    result = run(service, "explain", "host:1", "--decision", "9")
    assert result.exit_code == ExitCode.REFUSED
    assert "decision 9 is no longer kept (NOT_FOUND)" in result.stderr


@pytest.mark.parametrize(
    ("word", "mode", "percent"),
    [
        ("off", control_pb2.MODE_OFF, 0),
        ("shadow", control_pb2.MODE_SHADOW, 0),
        ("canary:5", control_pb2.MODE_CANARY, 5),
        ("enforce", control_pb2.MODE_ENFORCE, 0),
    ],
)
def test_mode_is_set(service: RecordingService, word: str, mode: control_pb2.Mode, percent: int) -> None:
    assert run(service, "mode", "host:1", word).exit_code == ExitCode.DONE
    assert service.asked == [
        admin_pb2.SetModeRequest(engine_id="host:1", mode=mode, canary_percent=percent),
    ]


def test_policy_is_set(service: RecordingService) -> None:
    assert run(service, "policy", "host:1", "static:3").exit_code == ExitCode.DONE
    assert run(service, "policy", "host:1", "goodput").exit_code == ExitCode.DONE
    held = run(service, "policy", "host:1", "goodput", "--for", "1.5")
    assert "policy goodput for 1.5 s" in held.stdout
    assert service.asked == [
        admin_pb2.SetPolicyRequest(engine_id="host:1", policy="static", parameters={"num_steps": "3"}),
        admin_pb2.SetPolicyRequest(engine_id="host:1", policy="goodput"),
        admin_pb2.SetPolicyRequest(engine_id="host:1", policy="goodput", hold_for_ms=1_500),
    ]


@pytest.mark.parametrize("words", [("mode", "e", "canary:0"), ("mode", "e", "on"), ("policy", "e", "static")])
def test_what_cannot_be_set_is_refused_before_the_service_is_asked(
    service: RecordingService, words: tuple[str, ...]
) -> None:
    result = run(service, *words)
    assert result.exit_code == ExitCode.USAGE
    assert f"{words[0].upper()} is {words[2]!r}; allowed: " in result.stderr
    assert service.asked == []


def test_a_service_that_is_not_there_is_said_to_be_unreachable() -> None:
    result = CliRunner().invoke(app, ["status", "--control-address", "unix:/nowhere/control.sock"])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "no control service answers at unix:/nowhere/control.sock" in result.stderr


@pytest.mark.parametrize("address", ["somewhere", "unix:relative", "host:port", "host:99999"])
def test_an_address_that_is_none_is_refused_before_anything_is_asked(address: str) -> None:
    result = CliRunner().invoke(app, ["status", "--control-address", address])
    assert result.exit_code == ExitCode.USAGE
    assert f"--control-address is {address!r}; allowed: " in result.stderr


def test_without_a_run_the_user_is_told_how_to_find_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    result = CliRunner().invoke(app, ["status", "--run-dir", str(tmp_path)])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "--control-address" in result.stderr


def test_every_exit_code_is_documented() -> None:
    shown = " ".join(CliRunner().invoke(app, ["--help"]).stdout.split())
    for code in ExitCode:
        assert f"{code.value} " in shown.partition("Exit codes:")[2]


def test_what_commands_are_for_is_listed_in_full() -> None:
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    assert "..." not in shown.replace("COMMAND [ARGS]...", "")


def test_an_option_that_does_not_exist_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["status", "--jsn"])
    assert result.exit_code == ExitCode.USAGE
    assert "--jsn" in result.stderr


def test_up_refuses_what_cannot_work_before_it_starts_anything() -> None:
    result = CliRunner().invoke(app, ["up", "--candidates", "1,2"])
    assert result.exit_code == ExitCode.USAGE
    assert "--candidates is '1,2'; allowed: " in result.stderr


def test_version_names_what_is_installed() -> None:
    found = json.loads(CliRunner().invoke(app, ["version", "--json"]).stdout)
    assert found["sglang"] == "0.5.23"
    assert found["turbospec"]


def test_commands_start_without_the_models_libraries() -> None:
    script = (
        "import sys, control_service.cli.main as m; print({'numpy', 'scipy', 'torch'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_a_command_that_is_imported_late_is_there_all_the_same() -> None:
    assert "replay" in CliRunner().invoke(app, ["--help"]).stdout
    assert "--concurrency" in CliRunner().invoke(app, ["replay", "--help"]).stdout
