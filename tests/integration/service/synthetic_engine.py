"""A tiny engine made of the real protos: asks for lengths, reports steps it pretends to have run.

For tests and benchmarks of the service. It has no clock of its own: a step lasts as long as
its span says, so a thousand steps take as long as their messages do.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from turbospec.v1 import control_pb2, control_pb2_grpc, telemetry

START_NS = 1_700_000_000_000_000_000
SPAN_SPACING_NS = 20_000_000


def make_profile(engine_id: str = "engine-a", epoch: int = 1, **changes: object) -> control_pb2.EngineProfile:
    """A valid profile; `changes` override fields."""
    fields: dict[str, object] = {
        "engine_id": engine_id,
        "epoch": epoch,
        "sglang_version": "0.5.23",
        "plugin_version": "0.1.0",
        "target_model": "target",
        "draft_model": "draft",
        "dtype": "float32",
        "accelerator": "cpu",
        "tensor_parallel_size": 1,
        "data_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "algorithm": "STANDALONE",
        "topk": 1,
        "candidate_num_steps": [0, 1, 2, 3, 5],
        "max_running_requests": 16,
        "launch_num_steps": 5,
    }
    return control_pb2.EngineProfile(**{**fields, **changes})  # type: ignore[arg-type]


def make_span(
    step_index: int, num_steps: int, accepted: list[int], duration_s: float, /, **changes: object
) -> Span:
    """A decode-step span as the contract wants it; `changes` set attributes by short name, None removes."""
    values: dict[str, object] = {
        "step_index": step_index,
        "batch_size": len(accepted),
        "context_tokens": 100 * len(accepted),
        "waiting_requests": 0,
        "num_steps": num_steps,
        "decision_source": telemetry.SOURCE_LEASE,
        "decision_id": step_index,
        "decision_wait_us": 1.5,
        "control_us": 12.0,
        "accepted_drafts": accepted,
        "first_step": [False] * len(accepted),
        "previous_num_steps": num_steps,
    }
    values.update(changes)
    start_ns = START_NS + step_index * SPAN_SPACING_NS
    span = Span(
        trace_id=step_index.to_bytes(16, "big"),
        span_id=step_index.to_bytes(8, "big"),
        name=telemetry.SPAN_DECODE_STEP,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + round(duration_s * 1e9),
    )
    for name, value in values.items():
        if value is not None:
            _set(span.attributes.add(key=f"turbospec.{name}").value, value)
    return span


def _set(target, value: object) -> None:  # type: ignore[no-untyped-def]
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for item in value:
            _set(target.array_value.values.add(), item)
    else:
        raise TypeError(f"no OTLP value for {value!r}")


def export_request(engine_id: str, epoch: int, spans: list[Span]) -> ExportTraceServiceRequest:
    """The spans of one engine epoch."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key=telemetry.ENGINE_ID).value.string_value = engine_id
    group.resource.attributes.add(key=telemetry.EPOCH).value.string_value = str(epoch)
    group.scope_spans.add().spans.extend(spans)
    return request


@dataclass(frozen=True)
class Physics:
    """What the pretended engine does: chance that each next draft is accepted, and what a step lasts."""

    acceptance: float
    step_seconds: Callable[[int, int], float]


def cheap_drafts(batch_size: int, num_steps: int) -> float:
    """A memory-bound target: drafting and verifying cost little."""
    return 0.010 + 0.0005 * batch_size + 0.0004 * num_steps


class SyntheticEngine:
    """One engine epoch on an open channel; obeys leases, reports every step."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        profile: control_pb2.EngineProfile,
        physics: Physics,
        *,
        seed: int = 0,
        spans_per_export: int = 8,
    ) -> None:
        self.profile = profile
        self.lengths: list[int] = []
        self.leases: list[control_pb2.DecideResponse] = []
        self.rejected_spans = 0
        self._physics = physics
        self._random = random.Random(seed)
        self._spans_per_export = spans_per_export
        self._pending: list[Span] = []
        self._traces = TraceServiceStub(channel)
        self._call = control_pb2_grpc.SpeculationControlServiceStub(channel).Decide()
        self._previous = -1

    async def introduce(self) -> None:
        """Send the profile."""
        await self._call.write(control_pb2.DecideRequest(profile=self.profile))

    async def ask(self, batch_size: int) -> control_pb2.DecideResponse:
        """Ask for the next step and await the answer."""
        step = control_pb2.StepRequest(
            epoch=self.profile.epoch,
            step_index=len(self.lengths) + 1,
            batch_size=batch_size,
            context_tokens=100 * batch_size,
        )
        await self._call.write(control_pb2.DecideRequest(step=step))
        return await self.hear()

    async def hear(self) -> control_pb2.DecideResponse:
        """The next lease, asked for or not."""
        lease = await self._call.read()
        if lease is grpc.aio.EOF:
            raise ConnectionError(f"stream ended: {await self._call.code()}, {await self._call.details()}")
        self.leases.append(lease)
        return lease

    async def run(self, steps: int, batch_size: int) -> None:
        """Ask, pretend to run, report; `steps` times."""
        for _ in range(steps):
            lease = await self.ask(batch_size)
            while lease.step_index <= len(self.lengths):
                # Sent because something changed, for a step that has run already.
                lease = await self.hear()
            fitting = (tier.num_steps for tier in lease.tiers if tier.max_batch_size >= batch_size)
            length = (
                next(fitting, 0) if lease.mode == control_pb2.MODE_ENFORCE else self.profile.launch_num_steps
            )
            accepted = [self._accepted(length) for _ in range(batch_size)]
            duration_s = self._physics.step_seconds(batch_size, length) * self._random.lognormvariate(
                0.0, 0.03
            )
            self.lengths.append(length)
            self._pending.append(
                make_span(len(self.lengths), length, accepted, duration_s, previous_num_steps=self._previous)
            )
            self._previous = length
            if len(self._pending) >= self._spans_per_export:
                await self.flush()

    async def flush(self) -> None:
        """Export what was not exported yet."""
        spans, self._pending = self._pending, []
        response = await self._traces.Export(
            export_request(self.profile.engine_id, self.profile.epoch, spans)
        )
        self.rejected_spans += response.partial_success.rejected_spans

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Wait until the service ends the stream; how it did."""
        return await self._call.code(), await self._call.details()

    async def close(self) -> None:
        """End the stream and wait until the service has ended it too."""
        if not self._call.done():
            await self._call.done_writing()
            while await self._call.read() is not grpc.aio.EOF:
                pass

    def _accepted(self, length: int) -> int:
        count = 0
        while count < length and self._random.random() < self._physics.acceptance:
            count += 1
        return count


@asynccontextmanager
async def connected_engine(
    target: str, profile: control_pb2.EngineProfile, physics: Physics
) -> AsyncIterator[SyntheticEngine]:
    """A synthetic engine with a channel of its own, introduced."""
    async with grpc.aio.insecure_channel(target) as channel:
        engine = SyntheticEngine(channel, profile, physics)
        await engine.introduce()
        yield engine
        await engine.close()
