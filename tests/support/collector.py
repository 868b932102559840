"""An OTLP collector between engine and service: keeps every span, hands exports on without waiting."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    TraceServiceStub,
    add_TraceServiceServicer_to_server,
)

from turbospec.v1 import telemetry as names

FORWARD_TIMEOUT_S: Final = 1.0
# Exports that wait for a service that does not answer; beyond that they are not handed on.
FORWARDS_MAX: Final = 1024
_RECONNECT: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Collector(TraceServiceServicer):
    """Answers the engine at once, whatever becomes of the service behind it."""

    def __init__(self, service_address: str | None) -> None:
        # What has arrived and was not read yet, and what was.
        self._exports: deque[ExportTraceServiceRequest] = deque()
        self._spans: list[dict[str, Any]] = []
        self._reading = threading.Lock()
        self._service_address = service_address
        self._waiting: queue.Queue[ExportTraceServiceRequest | None] = queue.Queue(FORWARDS_MAX)
        self._forwarder = threading.Thread(target=self._forward, name="collector", daemon=True)
        self._server: grpc.Server | None = None

    def start(self, socket: Path) -> str:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        add_TraceServiceServicer_to_server(self, self._server)
        address = f"unix:{socket}"
        self._server.add_insecure_port(address)
        self._server.start()
        self._forwarder.start()
        return address

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=0).wait(5)
            self._drop_waiting()
            self._waiting.put(None)
            self._forwarder.join(2 * FORWARD_TIMEOUT_S)

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self._exports.append(request)
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            self._drop_waiting()
        return ExportTraceServiceResponse()

    def spans(self, epoch: int | None = None) -> list[dict[str, Any]]:
        """Attributes of every span received, in order, and ``epoch``, ``start_ns``, ``end_ns`` (Unix time).

        ``epoch``: only those of one engine process.
        """
        with self._reading:
            while self._exports:
                self._spans.extend(_spans(self._exports.popleft()))
            return [span for span in self._spans if epoch in (None, span["epoch"])]

    def _forward(self) -> None:
        if self._service_address is None:
            while self._waiting.get() is not None:
                pass
            return
        with grpc.insecure_channel(self._service_address, options=_RECONNECT) as channel:
            service = TraceServiceStub(channel)
            while (request := self._waiting.get()) is not None:
                try:
                    service.Export(request, timeout=FORWARD_TIMEOUT_S)
                except grpc.RpcError:
                    # A service that is gone misses this; what was kept here is what tests look at.
                    continue

    def _drop_waiting(self) -> None:
        while not self._waiting.empty():
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                return


def _spans(export: ExportTraceServiceRequest) -> Iterator[dict[str, Any]]:
    for resource in export.resource_spans:
        epoch = next(a.value.string_value for a in resource.resource.attributes if a.key == names.EPOCH)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    **{attribute.key: plain(attribute.value) for attribute in span.attributes},
                    "epoch": int(epoch),
                    "start_ns": span.start_time_unix_nano,
                    "end_ns": span.end_time_unix_nano,
                }


def plain(value: Any) -> Any:
    """An OTLP AnyValue as a Python value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)
