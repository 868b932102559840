"""Step records out as OTLP spans, from a thread of the agent.

The spans are made here from finished records with the OpenTelemetry SDK's span type
and sent by its OTLP exporter: a live SDK span would cost the step thread tens of
microseconds, a record in shared memory costs it a few.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

from sglang_patch.board import Board
from sglang_patch.decision import REASON_NAMES, SOURCE_NAMES
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry as names
from turbospec.v1.control_pb2 import EngineProfile

logger = logging.getLogger(__name__)

MAX_BATCH: Final = 512
EXPORT_TIMEOUT_S: Final = 1.0
NS_PER_MS: Final = 1e6
NS_PER_US: Final = 1e3


class SpanExporter:
    """Empties the board's ring every ``interval_ms``; what cannot be sent is dropped and counted."""

    def __init__(self, *, address: str, profile: EngineProfile, board: Board, interval_ms: int) -> None:
        self._board = board
        self._interval_s = interval_ms / 1000
        self._spans = SpanFactory(profile)
        self._address = address
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turbospec-exporter", daemon=True)
        self._failing = False
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = EXPORT_TIMEOUT_S) -> None:
        """Send what is there, once, then stop."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        # The SDK logs every failed attempt; one line at each change of state is ours to write.
        logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(endpoint=self._address, insecure=True, timeout=EXPORT_TIMEOUT_S)
        last = False
        while not last:
            last = self._closing.wait(self._interval_s)
            while records := self._board.take(MAX_BATCH):
                self._send(exporter, records)
        exporter.shutdown()

    def _send(self, exporter: OTLPSpanExporter, records: list[StepRecord]) -> None:
        lost = self._board.dropped + self.dropped
        sent = exporter.export([self._spans.make(record, lost) for record in records])
        failed = sent is not SpanExportResult.SUCCESS
        if failed:
            self.dropped += len(records)
        if failed != self._failing:
            self._failing = failed
            if failed:
                logger.warning("turbospec: step records cannot be sent to %s; dropping them", self._address)
            else:
                logger.info("turbospec: step records reach %s again", self._address)


class SpanFactory:
    """Makes one span of one record. A step is a trace of its own."""

    def __init__(self, profile: EngineProfile) -> None:
        self._resource = Resource(
            {
                "service.name": "sglang",
                "service.instance.id": profile.engine_id,
                names.ENGINE_ID: profile.engine_id,
                names.EPOCH: str(profile.epoch),
            }
        )
        self._scope = InstrumentationScope("turbospec", profile.plugin_version)
        # Records carry monotonic times; one offset for the process keeps spans in order
        # even if the wall clock jumps.
        self._unix_offset_ns = time.time_ns() - time.monotonic_ns()
        self._random = random.Random()

    def make(self, record: StepRecord, dropped_records: int) -> ReadableSpan:
        context = SpanContext(
            trace_id=self._random.getrandbits(128) | 1,
            span_id=self._random.getrandbits(64) | 1,
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
        return ReadableSpan(
            name=names.SPAN_DECODE_STEP,
            context=context,
            kind=SpanKind.INTERNAL,
            resource=self._resource,
            instrumentation_scope=self._scope,
            attributes=_attributes(record, dropped_records),
            start_time=record.start_ns + self._unix_offset_ns,
            end_time=record.end_ns + self._unix_offset_ns,
        )


def _attributes(record: StepRecord, dropped_records: int) -> dict[str, AttributeValue]:
    decision = record.decision
    attributes: dict[str, AttributeValue] = {
        names.STEP_INDEX: record.step_index,
        names.BATCH_SIZE: record.batch_size,
        names.CONTEXT_TOKENS: record.context_tokens,
        names.WAITING_REQUESTS: record.waiting_requests,
        names.NUM_STEPS: record.num_steps,
        names.PREVIOUS_NUM_STEPS: record.previous_num_steps,
        names.DECISION_SOURCE: SOURCE_NAMES[decision.source],
        names.DECISION_ID: decision.decision_id,
        names.DECISION_WAIT_US: decision.wait_ns / NS_PER_US,
        names.CONTROL_US: record.control_ns / NS_PER_US,
        names.ACCEPTED_DRAFTS: record.accepted_drafts,
        names.FIRST_STEP: record.first_step,
        names.AFTER_FULL_ACCEPT: record.after_full_accept,
    }
    if decision.reason:
        attributes[names.FALLBACK_REASON] = REASON_NAMES[decision.reason]
    if decision.shadow_num_steps >= 0:
        attributes[names.SHADOW_NUM_STEPS] = decision.shadow_num_steps
    if dropped_records:
        attributes[names.DROPPED_RECORDS] = dropped_records
    for name, duration_ns in (
        (names.DRAFT_MS, record.draft_ns),
        (names.VERIFY_MS, record.verify_ns),
        (names.DRAFT_EXTEND_MS, record.draft_extend_ns),
    ):
        if duration_ns:
            attributes[name] = duration_ns / NS_PER_MS
    return attributes
