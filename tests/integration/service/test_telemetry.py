"""OTLP intake: good spans are learned, malformed ones are refused by cause and never reach a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext

from control_service.core.session import EngineSession
from control_service.server.app import ControlService
from tests.integration.service.synthetic_engine import (
    START_NS,
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    export_request,
    make_profile,
    make_span,
)
from turbospec.v1 import telemetry

NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
async def engine(unix_target: str) -> AsyncIterator[SyntheticEngine]:
    async with connected_engine(unix_target, make_profile(), Physics(0.8, cheap_drafts)) as connected:
        await connected.ask(2)
        yield connected


@pytest.fixture
def session(engine: SyntheticEngine, service: ControlService) -> EngineSession:
    entry = service.registry.get(engine.profile.engine_id)
    assert entry is not None
    return entry.session


async def export(
    target: str, spans: list[Span], engine_id: str = "engine-a", epoch: int = 1
) -> ExportTraceServiceResponse:
    async with grpc.aio.insecure_channel(target) as channel:
        return await TraceServiceStub(channel).Export(export_request(engine_id, epoch, spans))


async def test_good_spans_are_counted_and_learned(unix_target: str, session: EngineSession) -> None:
    spans = [
        make_span(1, 3, [3, 1], 0.02, control_us=7.0),
        make_span(2, 0, [0, 0], 0.01, decision_source="fallback", fallback_reason="expired"),
        make_span(3, 3, [0, 0], 0.02, first_step=[True, True], dropped_records=4),
    ]
    response = await export(unix_target, spans)
    assert not response.HasField("partial_success")
    counters = session.counters
    assert counters.steps_total == 3
    assert counters.accepted_tokens_total == 4
    assert counters.committed_tokens_total == 10
    assert counters.draft_tokens_total == 12
    assert counters.accepted_by_position == [2, 1, 1, 0, 0]
    assert counters.steps_by_source == {"lease": 2, "fallback": 1}
    assert counters.fallbacks_by_reason == {"expired": 1}
    assert counters.drops_by_cause["engine"] == 4
    # The first step after a prefill is kept apart.
    first = session.models.acceptance.positions()[0]
    assert (first.accepted, first.rejected) == (2, 0)
    assert session.models.first_step_acceptance.positions()[0].rejected == 2


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"step_index": 0}, "step_index"),
        ({"step_index": None}, "step_index"),
        ({"step_index": "7"}, "step_index"),
        ({"step_index": 7.0}, "step_index"),
        ({"batch_size": 3}, "accepted_drafts"),
        ({"batch_size": -2}, "batch_size"),
        ({"batch_size": 1 << 40}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"context_tokens": -1}, "context_tokens"),
        ({"context_tokens": 1 << 62}, "context_tokens"),
        ({"num_steps": 4}, "num_steps"),
        ({"num_steps": -1}, "num_steps"),
        ({"previous_num_steps": 4}, "previous_num_steps"),
        ({"accepted_drafts": [4, 0]}, "accepted_drafts"),
        ({"accepted_drafts": [-1, 0]}, "accepted_drafts"),
        ({"accepted_drafts": [1]}, "accepted_drafts"),
        ({"accepted_drafts": [0.5, 0.5]}, "accepted_drafts"),
        ({"accepted_drafts": 3}, "accepted_drafts"),
        ({"first_step": [False]}, "first_step"),
        ({"first_step": [0, 0]}, "first_step"),
        ({"decision_source": "oracle"}, "decision_source"),
        ({"decision_id": -1}, "counts"),
        ({"waiting_requests": -1}, "counts"),
        ({"waiting_requests": 1 << 32}, "counts"),
        ({"dropped_records": -1}, "counts"),
        ({"control_us": NAN}, "control_times"),
        ({"decision_wait_us": INFINITY}, "control_times"),
        ({"decision_wait_us": -1.0}, "control_times"),
        ({"control_us": "12"}, "control_us"),
    ],
)
async def test_a_malformed_span_is_refused_by_cause(
    changes: dict[str, object], cause: str, unix_target: str, session: EngineSession, service: ControlService
) -> None:
    good, bad = make_span(8, 3, [1, 2], 0.02), make_span(7, 3, [1, 2], 0.02, **changes)
    response = await export(unix_target, [bad, good])
    assert response.partial_success.rejected_spans == 1
    assert cause in response.partial_success.error_message
    assert session.counters.drops_by_cause[cause] == 1
    assert session.counters.steps_total == 1
    assert session.newest_step is not None
    assert session.newest_step.step_index == 8


@pytest.mark.parametrize("duration_s", [0.0, -0.5, 120.0])
async def test_impossible_durations_are_refused(
    duration_s: float, unix_target: str, session: EngineSession
) -> None:
    response = await export(unix_target, [make_span(1, 3, [1, 2], duration_s)])
    assert "duration" in response.partial_success.error_message
    assert session.counters.steps_total == 0


async def test_a_retried_export_counts_a_step_once(unix_target: str, session: EngineSession) -> None:
    span = make_span(1, 3, [1, 2], 0.02)
    await export(unix_target, [span])
    response = await export(unix_target, [span])
    assert "duplicate_step" in response.partial_success.error_message
    assert session.counters.steps_total == 1


@pytest.mark.parametrize(
    ("engine_id", "epoch", "cause"),
    [
        ("nobody", 1, "unknown_engine"),
        ("engine-a", 2, "unknown_epoch"),
        ("engine-a", 0, "stale_epoch"),
        ("", 1, "engine_id"),
    ],
)
async def test_spans_of_strangers_are_refused(
    engine_id: str, epoch: int, cause: str, unix_target: str, session: EngineSession
) -> None:
    response = await export(unix_target, [make_span(1, 3, [1, 2], 0.02)], engine_id, epoch)
    assert cause in response.partial_success.error_message
    assert session.counters.steps_total == 0


@pytest.mark.parametrize("text", ["-1", "1.0", "one", "", "9" * 21, "٣"])
async def test_an_epoch_that_is_no_number_is_refused(
    text: str, unix_target: str, session: EngineSession
) -> None:
    request = export_request("engine-a", 1, [make_span(1, 3, [1, 2], 0.02)])
    request.resource_spans[0].resource.attributes[1].value.string_value = text
    async with grpc.aio.insecure_channel(unix_target) as channel:
        response = await TraceServiceStub(channel).Export(request)
    assert "epoch" in response.partial_success.error_message


async def test_foreign_spans_pass_by(unix_target: str, session: EngineSession) -> None:
    response = await export(unix_target, [Span(name="http.request")], engine_id="")
    assert not response.HasField("partial_success")
    assert not session.counters.drops_by_cause


async def test_bytes_that_are_no_request_are_invalid(
    unix_target: str, session: EngineSession, service: ControlService
) -> None:
    method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    async with grpc.aio.insecure_channel(unix_target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(method)(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert session.counters.steps_total == 0


async def test_a_message_beyond_the_limit_is_refused(unix_target: str, session: EngineSession) -> None:
    span = make_span(1, 3, [1, 2], 0.02)
    span.attributes.add(key="padding").value.string_value = "x" * (5 << 20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await export(unix_target, [span])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_sdk_exporter_delivers(tcp_target: str, session: EngineSession) -> None:
    attributes = {
        telemetry.STEP_INDEX: 1,
        telemetry.BATCH_SIZE: 2,
        telemetry.CONTEXT_TOKENS: 50,
        telemetry.WAITING_REQUESTS: 0,
        telemetry.NUM_STEPS: 2,
        telemetry.DECISION_SOURCE: telemetry.SOURCE_LEASE,
        telemetry.DECISION_ID: 1,
        telemetry.DECISION_WAIT_US: 0.0,
        telemetry.CONTROL_US: 11.5,
        telemetry.ACCEPTED_DRAFTS: [2, 0],
        telemetry.FIRST_STEP: [False, False],
        telemetry.PREVIOUS_NUM_STEPS: -1,
    }
    span = ReadableSpan(
        name=telemetry.SPAN_DECODE_STEP,
        context=SpanContext(trace_id=1, span_id=1, is_remote=False),
        resource=Resource({telemetry.ENGINE_ID: "engine-a", telemetry.EPOCH: "1"}),
        attributes=attributes,
        start_time=START_NS,
        end_time=START_NS + 15_000_000,
    )
    exporter = OTLPSpanExporter(endpoint=f"http://{tcp_target}", insecure=True)
    try:
        result = await asyncio.to_thread(exporter.export, [span])
    finally:
        exporter.shutdown()
    assert result is SpanExportResult.SUCCESS
    assert session.newest_step is not None
    assert session.newest_step.accepted_drafts == (2, 0)
    assert session.newest_step.duration_s == pytest.approx(0.015)
