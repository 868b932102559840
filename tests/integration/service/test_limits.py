"""No peer can take the service from the others: streams, takeovers, requests, spans, engines, all counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from structlog.testing import capture_logs

from control_service.server.app import ControlService
from control_service.server.decide import StreamLimits
from control_service.server.limits import REFUSALS_LOGGED_AT_ONCE
from control_service.server.listen import OTHER_RPCS_MAX
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import (
    Physics,
    cheap_drafts,
    connected_engine,
    export_request,
    make_profile,
    make_span,
)
from turbospec.v1 import control_pb2, control_pb2_grpc

PHYSICS = Physics(0.8, cheap_drafts)
ENGINES_MAX = 3
# Few enough to be reached in a moment, far more than the test's own engine needs.
REQUESTS_PER_S = 50
SPANS_PER_S = 40
STREAMS_PER_MINUTE = 20


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(
        listen=f"unix:{tmp_path}/control.sock",
        metrics_listen="",
        shutdown_grace_s=0.2,
        engines_max=ENGINES_MAX,
        streams_max=8,
        streams_per_engine_per_minute=STREAMS_PER_MINUTE,
        requests_per_s=REQUESTS_PER_S,
        spans_per_s=SPANS_PER_S,
    )


@pytest.fixture
async def channel(unix_target: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(unix_target) as opened:
        yield opened


def step(index: int) -> control_pb2.DecideRequest:
    return control_pb2.DecideRequest(
        step=control_pb2.StepRequest(epoch=1, step_index=index, batch_size=1, context_tokens=10)
    )


def held_open(channel: grpc.aio.Channel, engine_id: str) -> Any:
    """A stream that says who it is, and stays."""

    async def requests() -> AsyncIterator[control_pb2.DecideRequest]:
        yield control_pb2.DecideRequest(profile=make_profile(engine_id))
        await asyncio.Event().wait()

    return control_pb2_grpc.SpeculationControlServiceStub(channel).Decide(requests())


def introduced(channel: grpc.aio.Channel, engine_id: str, **changes: Any) -> Any:
    """A stream that says who it is, and is then left alone."""
    profile = make_profile(engine_id, **changes)
    return control_pb2_grpc.SpeculationControlServiceStub(channel).Decide(
        iter([control_pb2.DecideRequest(profile=profile)])
    )


async def test_two_engines_of_one_name_cannot_take_over_from_each_other_for_ever(
    channel: grpc.aio.Channel, unix_target: str, service: ControlService
) -> None:
    calls = []
    counted = service._decide.refused_by_cause

    def state() -> tuple[int | None, int]:
        entry = service.registry.get("shared")
        return entry.stream_id if entry is not None else None, counted["streams_per_engine"]

    with capture_logs() as log:
        while counted["streams_per_engine"] < 50:
            before = state()
            # Kept, so that an older one is ended by its successor alone.
            calls.append(held_open(channel, "shared"))
            async with asyncio.timeout(20):
                while state() == before:
                    await asyncio.sleep(0)
    assert await calls[-1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{STREAMS_PER_MINUTE} a minute" in await calls[-1].details()
    # Each of the others was ended by its successor, but for the last, which is still served.
    assert counted["taken_over"] >= STREAMS_PER_MINUTE - 1
    assert service._decide.streams_open <= 2
    assert len(service.registry) == 1
    # A flood of refusals is no flood of lines.
    lines = [line for line in log if line["event"] == "stream_refused"]
    assert len(lines) <= REFUSALS_LOGGED_AT_ONCE + 5 < 50
    # Another engine never notices.
    async with connected_engine(unix_target, make_profile("other"), PHYSICS) as other:
        await other.run(10, batch_size=1)


async def test_requests_beyond_the_rate_are_dropped_and_counted_and_the_stream_lives(
    channel: grpc.aio.Channel, service: ControlService
) -> None:
    call = control_pb2_grpc.SpeculationControlServiceStub(channel).Decide()
    await call.write(control_pb2.DecideRequest(profile=make_profile()))
    answered: list[int] = []

    async def collect() -> None:
        while (lease := await call.read()) is not grpc.aio.EOF:
            answered.append(lease.step_index)

    collecting = asyncio.create_task(collect())
    flood = 1_000
    for index in range(1, flood + 1):
        await call.write(step(index))
    last = flood
    # Once there is room again the newest request is answered, not one that was waiting in a queue.
    async with asyncio.timeout(20):
        while not answered or answered[-1] <= flood:
            last += 1
            await call.write(step(last))
            await asyncio.sleep(0.05)
    await call.done_writing()
    await collecting
    entry = service.registry.get("engine-a")
    assert entry is not None
    decided = entry.session.counters.decisions_total
    dropped = service._decide.rate_limited_total
    assert dropped > flood // 2
    assert decided == len(answered)
    assert decided + dropped + service._decide.superseded_total == last
    assert answered == sorted(set(answered))


async def test_spans_beyond_the_rate_are_refused_as_such(
    channel: grpc.aio.Channel, service: ControlService
) -> None:
    await ended(introduced(channel, "engine-a"))
    await ended(introduced(channel, "engine-b"))
    spans = [make_span(index, 2, [1, 2], 0.02) for index in range(1, 5 * SPANS_PER_S + 1)]
    stub = TraceServiceStub(channel)
    response = await stub.Export(export_request("engine-a", 1, spans))
    refused = response.partial_success.rejected_spans
    assert 3 * SPANS_PER_S <= refused <= 4 * SPANS_PER_S
    assert f"rate_limited: {refused}" in response.partial_success.error_message
    entry = service.registry.get("engine-a")
    assert entry is not None
    assert entry.session.counters.drops_by_cause == {"rate_limited": refused}
    assert entry.session.counters.steps_total == len(spans) - refused
    assert service._trace.drops_by_cause["rate_limited"] == refused
    # What one engine sends too much of is not taken from another.
    answer = await stub.Export(export_request("engine-b", 1, spans[:SPANS_PER_S]))
    assert not answer.HasField("partial_success")


async def test_engines_and_profiles_by_the_hundred_stay_within_bounds(
    channel: grpc.aio.Channel, service: ControlService
) -> None:
    names = [f"engine-{number}" for number in range(200)]
    for name in names:
        await ended(introduced(channel, name, max_running_requests=16 + len(name)))
    assert len(service.registry) == ENGINES_MAX
    assert [entry.session.profile.engine_id for entry in service.registry] == names[-ENGINES_MAX:]
    assert service.registry.evicted_total == len(names) - ENGINES_MAX
    assert len(service._decide._openings) <= ENGINES_MAX
    # One name with ever new epochs and profiles is one engine.
    for epoch in range(2, STREAMS_PER_MINUTE + 1):
        await ended(introduced(channel, names[-1], epoch=epoch, dtype=f"dtype-{epoch}"))
    assert len(service.registry) == ENGINES_MAX
    assert service.registry.evicted_total == len(names) - ENGINES_MAX


async def test_a_stream_that_asks_and_never_reads_holds_one_answer_and_nobody_up(
    unix_target: str, service: ControlService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service._decide, "_limits", StreamLimits(8, ENGINES_MAX, 100, 1_000_000))
    # A connection that holds little: what is not read is soon felt at the other end.
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1_024))
    async with grpc.aio.insecure_channel(unix_target, options=options) as channel:
        call = control_pb2_grpc.SpeculationControlServiceStub(channel).Decide()
        await call.write(control_pb2.DecideRequest(profile=make_profile()))
        index = rounds_without_an_answer = 0
        async with asyncio.timeout(30):
            while rounds_without_an_answer < 3:
                before = answers(service)
                for _ in range(500):
                    index += 1
                    await call.write(step(index))
                await asyncio.sleep(0.05)
                rounds_without_an_answer = rounds_without_an_answer + 1 if answers(service) == before else 0
        # What came since then has replaced each other: nothing piles up behind the answer that waits.
        assert service._decide.superseded_total + answers(service) >= index - 500
        async with connected_engine(unix_target, make_profile("other"), PHYSICS) as other:
            await other.run(20, batch_size=1)
        assert len(other.leases) == 20


def answers(service: ControlService) -> int:
    entry = service.registry.get("engine-a")
    return entry.session.counters.decisions_total if entry is not None else 0


async def test_calls_that_are_held_open_are_bounded(
    channel: grpc.aio.Channel, unix_target: str, service: ControlService, settings: ServiceSettings
) -> None:
    allowed = settings.streams_max + OTHER_RPCS_MAX
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(allowed + 20)]
    answers = await asyncio.gather(*(watch.read() for watch in watches), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(refused) >= 20
    for watch in watches:
        watch.cancel()

    async def serves_again() -> bool:
        try:
            async with connected_engine(unix_target, make_profile(), PHYSICS) as engine:
                await engine.ask(1)
        except (ConnectionError, grpc.aio.AioRpcError):
            return False
        return True

    async with asyncio.timeout(20):
        while not await serves_again():
            await asyncio.sleep(0.05)


async def ended(call: Any) -> None:
    """Wait until the service has ended a stream whose engine said no more."""
    assert await call.read() is grpc.aio.EOF
