"""What operators use: admin rpcs, health, reflection, metrics."""

from __future__ import annotations

import asyncio
import math
import urllib.request
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from control_service.server.app import HEALTH_COMPONENTS, ControlService
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from turbospec.v1 import admin_pb2, admin_pb2_grpc, control_pb2

STEPS = 120


@pytest.fixture
def settings(settings: ServiceSettings, request: pytest.FixtureRequest) -> ServiceSettings:
    return settings.model_copy(update={"metrics_listen": getattr(request, "param", "")})


@pytest.fixture
async def engine(unix_target: str) -> AsyncIterator[SyntheticEngine]:
    async with connected_engine(unix_target, make_profile(), Physics(0.8, cheap_drafts)) as connected:
        await connected.run(STEPS, batch_size=2)
        await connected.flush()
        yield connected


@pytest.fixture
async def admin(
    unix_target: str, engine: SyntheticEngine
) -> AsyncIterator[admin_pb2_grpc.SpeculationAdminServiceStub]:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        yield admin_pb2_grpc.SpeculationAdminServiceStub(channel)


Admin = admin_pb2_grpc.SpeculationAdminServiceStub


async def status_of(admin: Admin) -> admin_pb2.EngineStatus:
    return (await admin.ListEngines(admin_pb2.ListEnginesRequest())).engines[0]


async def test_engines_are_listed_with_what_they_did(admin: Admin, engine: SyntheticEngine) -> None:
    status = await status_of(admin)
    assert status.profile == engine.profile
    assert status.connected
    assert status.mode == control_pb2.MODE_ENFORCE
    assert status.policy == "goodput"
    assert status.steps_total == STEPS
    assert status.decisions_total == STEPS
    assert sum(status.steps_by_num_steps.values()) == STEPS
    assert dict(status.steps_by_source) == {"lease": STEPS}
    assert status.committed_tokens_total == 2 * STEPS + status.accepted_tokens_total
    assert 0.4 < status.acceptance_rate < 0.8
    assert status.goodput_tokens_per_s == pytest.approx(status.predicted_goodput_tokens_per_s, rel=0.3)
    assert status.predicted_goodput_without_speculation_tokens_per_s < status.goodput_tokens_per_s
    assert status.step_control_us.p50 == 12.0
    assert status.answer_us.count == STEPS
    assert status.answer_us.p50 <= status.answer_us.p99 <= status.answer_us.max


async def test_models_and_decisions_explain_themselves(admin: Admin, engine: SyntheticEngine) -> None:
    models = await admin.GetEngineModels(admin_pb2.GetEngineModelsRequest(engine_id="engine-a"))
    assert models.step_time_ready
    assert models.not_ready_reason == ""
    # The first position comes once more, after a full accept.
    places = [(place.position, place.after_full_accept) for place in models.acceptance]
    assert places == [*((position, False) for position in range(1, 6)), (1, True)]
    assert {cell.num_steps for cell in models.step_time} == {0, 1, 2, 3, 5}
    assert all(value >= 0.0 for value in models.shared_coefficients_s.values())
    newest = await admin.ExplainDecision(admin_pb2.ExplainDecisionRequest(engine_id="engine-a"))
    assert newest.decision_id == STEPS
    assert newest.reason
    winner = min(newest.candidates, key=lambda candidate: candidate.regret_ratio)
    assert winner.regret_ratio == 0.0
    for candidate in newest.candidates:
        rate = candidate.expected_tokens / candidate.expected_step_s
        assert candidate.goodput_tokens_per_s == pytest.approx(rate)
        assert candidate.regret_ratio == pytest.approx(1.0 - rate / winner.goodput_tokens_per_s)
    others = [c for c in newest.candidates if c.num_steps != newest.num_steps]
    runner_up = max(others, key=lambda candidate: candidate.goodput_tokens_per_s)
    assert newest.margin.runner_up_num_steps == runner_up.num_steps
    chosen = next(c for c in newest.candidates if c.num_steps == newest.num_steps)
    gain = chosen.goodput_tokens_per_s / runner_up.goodput_tokens_per_s - 1.0
    assert newest.margin.gain_ratio == pytest.approx(gain)
    assert newest.margin.gain_standard_error_ratio > 0.0
    first = await admin.ExplainDecision(admin_pb2.ExplainDecisionRequest(engine_id="engine-a", decision_id=1))
    assert first.reason == "cold_start"
    assert not first.candidates
    assert not first.HasField("margin")


async def test_a_change_of_mode_or_policy_replaces_the_lease_in_force(
    admin: Admin, engine: SyntheticEngine
) -> None:
    before = engine.leases[-1]
    await admin.SetPolicy(
        admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="static", parameters={"num_steps": "2"})
    )
    lease = await engine.hear()
    assert (lease.step_index, [tier.num_steps for tier in lease.tiers]) == (before.step_index, [2])
    assert lease.decision_id > before.decision_id
    await admin.SetMode(
        admin_pb2.SetModeRequest(engine_id="engine-a", mode=control_pb2.MODE_CANARY, canary_percent=10)
    )
    lease = await engine.hear()
    assert (lease.mode, lease.canary_percent) == (control_pb2.MODE_CANARY, 10)
    assert [tier.num_steps for tier in lease.tiers] == [2]
    await admin.SetMode(admin_pb2.SetModeRequest(engine_id="engine-a", mode=control_pb2.MODE_OFF))
    lease = await engine.hear()
    assert lease.mode == control_pb2.MODE_OFF
    assert not lease.tiers
    status = await status_of(admin)
    assert (status.mode, status.policy) == (control_pb2.MODE_OFF, "static")
    assert dict(status.policy_parameters) == {"num_steps": "2"}


@pytest.mark.parametrize(
    ("rpc", "request_", "code", "field"),
    [
        ("GetEngineModels", admin_pb2.GetEngineModelsRequest(engine_id="x"), "NOT_FOUND", "engine_id"),
        ("ExplainDecision", admin_pb2.ExplainDecisionRequest(engine_id="x"), "NOT_FOUND", "engine_id"),
        (
            "ExplainDecision",
            admin_pb2.ExplainDecisionRequest(engine_id="engine-a", decision_id=10_000),
            "NOT_FOUND",
            "decision_id",
        ),
        ("SetMode", admin_pb2.SetModeRequest(engine_id="engine-a"), "INVALID_ARGUMENT", "mode"),
        (
            "SetMode",
            admin_pb2.SetModeRequest(engine_id="engine-a", mode=control_pb2.MODE_CANARY),
            "INVALID_ARGUMENT",
            "canary_percent",
        ),
        (
            "SetMode",
            admin_pb2.SetModeRequest(engine_id="engine-a", mode=control_pb2.MODE_OFF, canary_percent=5),
            "INVALID_ARGUMENT",
            "canary_percent",
        ),
        (
            "SetPolicy",
            admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="best"),
            "INVALID_ARGUMENT",
            "policy",
        ),
        (
            "SetPolicy",
            admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="static", parameters={"num_steps": "4"}),
            "INVALID_ARGUMENT",
            "parameters.num_steps",
        ),
        (
            "SetPolicy",
            admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="goodput", parameters={"a": "b"}),
            "INVALID_ARGUMENT",
            "parameters",
        ),
        (
            "SetPolicy",
            admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="goodput", hold_for_ms=86_400_001),
            "INVALID_ARGUMENT",
            "hold_for_ms",
        ),
    ],
)
async def test_wrong_admin_requests_name_the_field(
    rpc: str, request_: object, code: str, field: str, admin: Admin
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(admin, rpc)(request_)
    assert caught.value.code().name == code
    assert (caught.value.details() or "").startswith(f"{field}:")


async def test_health_names_its_components_and_says_when_it_stops(settings: ServiceSettings) -> None:
    service = ControlService(settings)
    await service.start()
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for component in HEALTH_COMPONENTS:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=component))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(service.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await stopping


async def test_reflection_lists_every_service(unix_target: str) -> None:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert set(HEALTH_COMPONENTS[1:]) <= names


@pytest.mark.parametrize("settings", ["127.0.0.1:0"], indirect=True)
async def test_metrics_can_be_scraped_and_agree_with_the_engine(
    service: ControlService, engine: SyntheticEngine
) -> None:
    url = f"http://{service.metrics_address}/metrics"
    body = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    name = "engine-a"
    assert samples["turbospec_steps_total", name, "lease"] == STEPS
    decisions = sum(value for key, value in samples.items() if key[0] == "turbospec_decisions_total")
    assert decisions == STEPS
    assert samples["turbospec_step_duration_seconds_count", name] == STEPS
    assert samples["turbospec_step_duration_seconds_bucket", "+Inf", name] == STEPS
    assert samples["turbospec_answer_duration_seconds_count", name] == STEPS
    drafts = sum(1 for length in engine.lengths if length) * 2
    assert samples["turbospec_drafts_total", name] == drafts
    assert samples["turbospec_draft_tokens_total", name] == 2 * sum(engine.lengths)
    accepted = samples["turbospec_accepted_tokens_total", name]
    by_position = [samples["turbospec_accepted_tokens_per_position_total", str(i), name] for i in range(1, 6)]
    assert sum(by_position) == accepted
    assert by_position == sorted(by_position, reverse=True)
    lengths = (str(length) for length in engine.profile.candidate_num_steps)
    committed = sum(samples["turbospec_committed_tokens_total", length, name] for length in lengths)
    assert committed == 2 * STEPS + accepted
    assert samples["turbospec_engines_connected",] == 1
    assert samples["turbospec_mode", "enforce", name] == 1
    assert math.isfinite(samples["turbospec_predicted_goodput_tokens_per_second", name])
    assert not [key for key in samples if ":" in key[0]]
