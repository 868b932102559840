"""Synthetic engines that keep to a timetable: a step every 10 ms, whatever the service does.

Every engine has a connection of its own, with its decision stream and its exports on it, as the plugin's
agent has. A request goes out when its step begins, so that a slow answer delays no later request; its
latency runs from there to the arrival of its answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import deque
from dataclasses import dataclass, field, fields
from typing import Final, TypeAlias

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from benchmarks.service.spans import CONTEXT_TOKENS_PER_REQUEST, FIRST_STEP, ExportEnvelope, SpanPool
from sglang_patch.lease import Fence, Lease, Refused, check
from turbospec.v1.control_pb2 import DecideRequest, DecideResponse, EngineProfile, StepRequest
from turbospec.v1.control_pb2_grpc import SpeculationControlServiceStub

Call: TypeAlias = "grpc.aio.StreamStreamCall[DecideRequest, DecideResponse]"

STEPS_PER_S: Final = 100
EXPORT_INTERVAL_S: Final = 0.1
EXPORT_TIMEOUT_S: Final = 1.0
EXPORT_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CANDIDATES: Final = (0, 1, 2, 3, 5, 7)
# As many as the plugin's ring holds; one of its exports carries at most half of them.
RING_STEPS: Final = 1_024
STEPS_PER_EXPORT: Final = 512
# Answers still under way when an engine stops get so long.
SETTLE_S: Final = 0.3
_OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)


def profile_of(number: int, batch_size: int) -> EngineProfile:
    """Engines of one kind, so that they share a key of learned state, each with a name of its own."""
    return EngineProfile(
        engine_id=f"bench-{number}",
        epoch=time.time_ns(),
        sglang_version="0.5.23",
        plugin_version="0.1.0",
        target_model="synthetic",
        draft_model="synthetic-draft",
        dtype="bfloat16",
        accelerator="none",
        tensor_parallel_size=1,
        data_parallel_size=1,
        pipeline_parallel_size=1,
        algorithm="EAGLE",
        topk=1,
        candidate_num_steps=CANDIDATES,
        graph_batch_sizes=(1, 2, 4, 8, *range(16, batch_size + 1, 16)),
        max_running_requests=batch_size,
        launch_num_steps=CANDIDATES[-1],
    )


@dataclass(slots=True)
class Tally:
    """What happened, summed over engines; latencies in seconds."""

    steps: int = 0
    steps_without_lease: int = 0
    requests: int = 0
    answers: int = 0
    # The service answers only the newest request it has: older ones were too slow for it.
    requests_unanswered: int = 0
    leases_refused: int = 0
    spans_sent: int = 0
    spans_rejected: int = 0
    spans_dropped: int = 0
    streams_broken: int = 0
    # From sending a request to its answer, and of steps against the timetable.
    answer_s: array[float] = field(default_factory=lambda: array("d"))
    lateness_s: array[float] = field(default_factory=lambda: array("d"))

    def cut(self) -> Tally:
        """What was counted so far; counting goes on from zero."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        fresh = Tally()
        for name in values:
            setattr(self, name, getattr(fresh, name))
        return Tally(**values)

    def add(self, other: Tally) -> None:
        """Count what another has counted too; latencies are left where they are."""
        for item in fields(self):
            if item.type == "int":
                setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


class LoadedEngine:
    """One engine on its timetable."""

    def __init__(
        self, number: int, address: str, pool: SpanPool, tally: Tally, *, batch_size: int, strict: bool
    ) -> None:
        self._number = number
        self._address = address
        self._pool = pool
        self._tally = tally
        self._batch_size = batch_size
        self._strict = strict
        self._profile = profile_of(number, batch_size)
        self._envelope = ExportEnvelope(self._profile)
        self._fence = Fence(self._profile.epoch, frozenset(CANDIDATES), 0, 0, 0, 0)
        self._step = FIRST_STEP - 1
        self._previous_num_steps = CANDIDATES[-1]
        self._lease: Lease | None = None
        # When the requests that may still be answered were sent, by step.
        self._sent_s: dict[int, float] = {}
        self._ring: deque[bytes] = deque()
        self._stopping = False

    async def run(self, first_s: float) -> None:
        """Step from `first_s` (monotonic) until `stop`; returns when all that was sent is settled."""
        async with grpc.aio.insecure_channel(self._address, options=_OWN_CONNECTION) as channel:
            call = SpeculationControlServiceStub(channel).Decide()
            await call.write(DecideRequest(profile=self._profile))
            reader = asyncio.create_task(self._read(call))
            exporter = asyncio.create_task(self._export_on(channel, first_s))
            try:
                await self._step_on(call, first_s)
            except (grpc.RpcError, asyncio.InvalidStateError):
                self._tally.streams_broken += 1
                self._stopping = True
            await exporter
            await asyncio.sleep(SETTLE_S)
            self._tally.requests_unanswered += len(self._sent_s)
            call.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def stop(self) -> None:
        """Begin no further step."""
        self._stopping = True

    async def _step_on(self, call: Call, first_s: float) -> None:
        unix_offset_ns = time.time_ns() - time.monotonic_ns()
        count = 0
        while not self._stopping:
            due_s = first_s + count / STEPS_PER_S
            count += 1
            await asyncio.sleep(due_s - time.monotonic())
            begun_s = time.monotonic()
            self._tally.lateness_s.append(begun_s - due_s)
            self._begin_step(round(due_s * 1e9) + unix_offset_ns)
            if self._must_ask():
                self._sent_s[self._step + 1] = begun_s
                self._tally.requests += 1
                await call.write(self._request(self._step + 1))

    def _begin_step(self, start_ns: int) -> None:
        """Settle the step's length. Its span is made at once: how long it takes is part of the template."""
        self._step += 1
        lease, tally = self._lease, self._tally
        length = 0
        if lease is not None and lease.first_step <= self._step <= lease.last_step:
            length = lease.length_for(self._batch_size)
        else:
            tally.steps_without_lease += 1
        tally.steps += 1
        if len(self._ring) == RING_STEPS:
            tally.spans_dropped += 1
        else:
            span = self._pool.span(self._number, self._step, length, self._previous_num_steps, start_ns)
            self._ring.append(span)
        self._previous_num_steps = length

    def _must_ask(self) -> bool:
        """As the plugin's link: unless a lease covers more steps than the next one."""
        lease = self._lease
        return self._strict or lease is None or lease.last_step <= self._step + 1

    def _request(self, step_index: int) -> DecideRequest:
        return DecideRequest(
            step=StepRequest(
                epoch=self._profile.epoch,
                step_index=step_index,
                batch_size=self._batch_size,
                context_tokens=self._batch_size * CONTEXT_TOKENS_PER_REQUEST,
            )
        )

    async def _read(self, call: Call) -> None:
        async for answer in call:
            sent_s = self._sent_s.pop(answer.step_index, None)
            if sent_s is not None:
                self._tally.answers += 1
                self._tally.answer_s.append(time.monotonic() - sent_s)
            for older in [step for step in self._sent_s if step < answer.step_index]:
                del self._sent_s[older]
                self._tally.requests_unanswered += 1
            self._accept(answer)

    def _accept(self, answer: DecideResponse) -> None:
        fence = self._fence._replace(last_asked_step=self._step + 1)
        try:
            # Steps, not time, are what ends a lease here.
            self._lease = check(answer, fence, now_ns=0)
        except Refused:
            self._tally.leases_refused += 1
            return
        self._fence = fence._replace(
            newest_answered_step=answer.step_index,
            newest_generation=answer.model_generation,
            newest_decision_id=answer.decision_id,
        )

    async def _export_on(self, channel: grpc.aio.Channel, first_s: float) -> None:
        """Every 100 ms, at moments of the engine's own; once more at the end."""
        export = channel.unary_unary(EXPORT_METHOD, response_deserializer=_rejected_spans)
        due_s = first_s + random.Random(self._number).random() * EXPORT_INTERVAL_S
        while not self._stopping or self._ring:
            await asyncio.sleep(due_s - time.monotonic())
            due_s = max(due_s + EXPORT_INTERVAL_S, time.monotonic())
            if self._ring:
                await self._export(export)

    async def _export(self, export: grpc.aio.UnaryUnaryMultiCallable[bytes, int]) -> None:
        ring = self._ring
        spans = [ring.popleft() for _ in range(min(len(ring), STEPS_PER_EXPORT))]
        payload = self._envelope.around(spans)
        try:
            rejected = await export(payload, timeout=EXPORT_TIMEOUT_S)
        except grpc.RpcError:
            self._tally.spans_dropped += len(spans)
            return
        self._tally.spans_sent += len(spans)
        self._tally.spans_rejected += rejected


def _rejected_spans(answer: bytes) -> int:
    """How many spans of a request the service refused."""
    return ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
