"""Step records out as OTLP spans, from a thread of the agent.

The spans are made here from finished records with the OpenTelemetry SDK's span type and
encoder: a live SDK span would cost the step thread tens of microseconds, a record in
shared memory costs it a few. They are sent by gRPC's own stub, not by the SDK's
exporter, for two reasons: they must go to the replica that holds the decision stream,
so over that stream's channel, and the SDK measures its retries by the wall clock.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Final, Protocol

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

from sglang_patch.addresses import TlsFiles
from sglang_patch.board import Board
from sglang_patch.channel import open_channel
from sglang_patch.decision import REASON_NAMES, SOURCE_NAMES
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry as names
from turbospec.v1.control_pb2 import EngineProfile

logger = logging.getLogger(__name__)

MAX_BATCH: Final = 512
# Of all steps in one export: some hundred bytes a step and some twenty a request stay below the 4 MiB that
# gRPC servers take.
MAX_REQUESTS: Final = 65_536
EXPORT_TIMEOUT_S: Final = 1.0
NS_PER_MS: Final = 1e6
NS_PER_US: Final = 1e3
# The request did not get there: the same records may go out again.
_NOT_DELIVERED: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Way(Protocol):
    """Where records go: the link, over the stream's channel, or a collector."""

    def channel(self) -> grpc.Channel | None:
        """None while there is no way; the records wait in the ring then."""

    def failed(self) -> None:
        """Nothing gets through this channel."""


class Collector:
    """A way of its own for records, to an address that is not the service's."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        self._address = address
        self._tls = tls
        self._channel: grpc.Channel | None = None
        self._complained = False

    def channel(self) -> grpc.Channel | None:
        if self._channel is None:
            try:
                self._channel = open_channel(self._address, self._tls)
            except OSError as error:
                if not self._complained:
                    logger.warning("turbospec: cannot read %s: %s", error.filename, error.strerror)
                self._complained = True
        return self._channel

    def failed(self) -> None:
        """Connect anew, with the certificates as they are then."""
        self._complained = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class SpanExporter:
    """Looks at the board's ring every ``interval_ms`` and empties it if an export is due. One batch at most
    is held back to be sent again; the rest waits in the ring. What is refused is dropped and counted."""

    def __init__(self, *, way: Way, profile: EngineProfile, board: Board, interval_ms: int) -> None:
        self._way = way
        self._board = board
        self._interval_s = interval_ms / 1000
        self._spans = SpanFactory(profile)
        self._unsent: list[StepRecord] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turbospec-exporter", daemon=True)
        self._failing = False

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = EXPORT_TIMEOUT_S) -> None:
        """Send what is there, once, then stop."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        last = False
        intervals = 0
        while not last:
            last = self._closing.wait(self._interval_s)
            intervals += 1
            if not (last or self._unsent or self._due(intervals)):
                continue
            intervals = 0
            try:
                self._flush()
            except Exception as error:
                # Whatever it is, it must not end the thread: no record would ever be sent again.
                self._drop(len(self._unsent), repr(error))

    def _due(self, intervals: int) -> bool:
        _, batch_size, _, _ = self._board.newest_ask()
        return names.export_is_due(self._board.records, batch_size, intervals)

    def _flush(self) -> None:
        while True:
            if not self._unsent:
                self._unsent = self._board.take(MAX_BATCH)
            channel = self._way.channel()
            if not self._unsent or channel is None or not self._send(channel):
                return

    def _send(self, channel: grpc.Channel) -> bool:
        """Send the oldest records. Returns whether they are done with, one way or the other."""
        attributes = link_attributes(self._board)
        count = fitting(self._unsent)
        request = encode_spans([self._spans.make(record, attributes) for record in self._unsent[:count]])
        try:
            TraceServiceStub(channel).Export(request, timeout=EXPORT_TIMEOUT_S)
        except ValueError as error:
            # The channel was closed under our hands: the stream is lost.
            self._tell(str(error))
            return False
        except grpc.RpcError as error:
            code = error.code()
            if code in _NOT_DELIVERED:
                self._way.failed()
                self._tell(code.name)
                return False
            self._drop(count, code.name)
            return True
        del self._unsent[:count]
        self._tell("")
        return True

    def _drop(self, count: int, reason: str) -> None:
        self._board.lose_records(count)
        del self._unsent[:count]
        self._tell(reason)

    def _tell(self, failure: str) -> None:
        """One line each time sending begins to fail or to work again."""
        if bool(failure) == self._failing:
            return
        self._failing = bool(failure)
        if failure:
            logger.warning("turbospec: step records cannot be sent (%s)", failure)
        else:
            logger.info("turbospec: step records are sent again")


def fitting(records: list[StepRecord]) -> int:
    """How many of the records, from the first on, go into one export: one at least."""
    requests = 0
    for count, record in enumerate(records):
        requests += record.batch_size
        if requests > MAX_REQUESTS and count:
            return count
    return len(records)


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

    def make(self, record: StepRecord, of_link: dict[str, AttributeValue]) -> ReadableSpan:
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
            attributes=of_link | _attributes(record),
            start_time=record.start_ns + self._unix_offset_ns,
            end_time=record.end_ns + self._unix_offset_ns,
        )


def link_attributes(board: Board) -> dict[str, AttributeValue]:
    """What every span of an export says of the link; counts are totals, left out while zero."""
    totals = {names.DROPPED_RECORDS: board.lost_records, names.DROPPED_ASKS: board.lost_asks}
    totals |= {names.LEASE_REFUSALS + cause: count for cause, count in board.refusals().items()}
    return {
        names.LINK_STATE: board.link_state_name,
        **{name: total for name, total in totals.items() if total},
    }


def _attributes(record: StepRecord) -> dict[str, AttributeValue]:
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
    for name, duration_ns in (
        (names.DRAFT_MS, record.draft_ns),
        (names.VERIFY_MS, record.verify_ns),
        (names.DRAFT_EXTEND_MS, record.draft_extend_ns),
    ):
        if duration_ns:
            attributes[name] = duration_ns / NS_PER_MS
    return attributes
