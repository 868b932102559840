"""OTLP TraceService: the only way telemetry enters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import grpc
import structlog
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from control_service.core.registry import EngineRegistry
from control_service.core.session import EngineSession
from control_service.server.limits import KeyedBuckets, LogLimit
from control_service.server.otlp import MalformedSpanError, engine_of, step_of
from control_service.server.watch import StepWatchers
from control_service.server.web.history import StepHistory
from turbospec.v1 import telemetry

SERVICE_NAME = "opentelemetry.proto.collector.trace.v1.TraceService"
# Answers must not wait for a large export: the loop is given back this often.
SPANS_PER_TURN = 4
# Models are looked at again after so many spans of an export, and at its end.
SPANS_PER_REFIT = 16
CAUSES_LOGGED = 8

_log = structlog.get_logger(__name__)


class TraceServicer:
    """Feeds spans to sessions and counts what it refuses, by cause.

    An engine's spans beyond `spans_per_s` are refused as `rate_limited`: a real engine sends one a step.
    """

    def __init__(
        self,
        registry: EngineRegistry,
        watchers: StepWatchers,
        history: StepHistory,
        *,
        spans_per_s: int,
        engines_max: int,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._watchers = watchers
        self._history = history
        self._clock = clock
        self._rates = KeyedBuckets(per_s=spans_per_s, burst=spans_per_s, keys_max=engines_max)
        self._log_limit = LogLimit(clock())
        # Exports of many engines take turns: between any two, answers that wait are given.
        self._turn = asyncio.Lock()
        self.spans_total = 0
        self.foreign_spans_total = 0
        self.drops_by_cause: Counter[str] = Counter()

    def handler(self) -> grpc.GenericRpcHandler:
        """The rpc on raw bytes, so that what cannot be decoded gets a status of ours."""
        method = grpc.unary_unary_rpc_method_handler(
            self.export, response_serializer=ExportTraceServiceResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE_NAME, {"Export": method})

    async def export(
        self, payload: bytes, context: grpc.aio.ServicerContext[bytes, ExportTraceServiceResponse]
    ) -> ExportTraceServiceResponse:
        """TraceService.Export: INVALID_ARGUMENT for bytes that are no request, else partial success."""
        try:
            request = ExportTraceServiceRequest.FromString(payload)
        except DecodeError:
            self.drops_by_cause["undecodable_request"] += 1
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the request is not an ExportTraceServiceRequest"
            )
        rejected: Counter[str] = Counter()
        for resource_spans in request.resource_spans:
            await self._take(resource_spans, rejected)
        self.drops_by_cause.update(rejected)
        response = ExportTraceServiceResponse()
        if rejected:
            causes = ", ".join(f"{cause}: {count}" for cause, count in rejected.most_common(CAUSES_LOGGED))
            response.partial_success.rejected_spans = rejected.total()
            response.partial_success.error_message = f"spans refused by cause: {causes}"
            fields = self._log_limit.due(self._clock())
            if fields is not None:
                _log.warning("spans_refused", spans=rejected.total(), causes=causes, **fields)
        return response

    async def _take(self, resource_spans: ResourceSpans, rejected: Counter[str]) -> None:
        spans = [span for scope in resource_spans.scope_spans for span in scope.spans]
        ours = [span for span in spans if span.name == telemetry.SPAN_DECODE_STEP]
        self.foreign_spans_total += len(spans) - len(ours)
        if not ours:
            return
        self.spans_total += len(ours)
        try:
            session = self._session_of(resource_spans)
        except MalformedSpanError as error:
            rejected[error.cause] += len(ours)
            return
        granted = self._rates.take(session.profile.engine_id, self._clock(), len(ours))
        if granted < len(ours):
            rejected["rate_limited"] += len(ours) - granted
            session.counters.drops_by_cause["rate_limited"] += len(ours) - granted
        for begin in range(0, granted, SPANS_PER_TURN):
            end = min(begin + SPANS_PER_TURN, granted)
            async with self._turn:
                for span in ours[begin:end]:
                    cause = self._learn(session, span)
                    if cause is not None:
                        rejected[cause] += 1
                if session.needs_refit and (end == granted or end % SPANS_PER_REFIT == 0):
                    session.refit()
                await asyncio.sleep(0)

    def _session_of(self, resource_spans: ResourceSpans) -> EngineSession:
        engine_id, epoch = engine_of(resource_spans.resource)
        entry = self._registry.get(engine_id)
        if entry is None:
            raise MalformedSpanError("unknown_engine")
        if entry.session.profile.epoch != epoch:
            raise MalformedSpanError(
                "stale_epoch" if epoch < entry.session.profile.epoch else "unknown_epoch"
            )
        return entry.session

    def _learn(self, session: EngineSession, span: Span) -> str | None:
        """Why the span was refused; None if it was taken."""
        try:
            step = step_of(span)
        except MalformedSpanError as error:
            session.counters.drops_by_cause[error.cause] += 1
            return error.cause
        cause = session.observe(step)
        if cause is None:
            self._watchers.publish(session.profile, step)
            self._history.observe(session, step)
        return cause
