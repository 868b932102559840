"""A control service that follows a script instead of a model, over the real wire.

It stands where the real one would when a test must dictate which length each step is
told to run, or must misbehave on purpose.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from turbospec.v1.control_pb2 import MODE_ENFORCE, DecideRequest, DecideResponse, EngineProfile, Tier
from turbospec.v1.control_pb2_grpc import (
    SpeculationControlServiceServicer,
    add_SpeculationControlServiceServicer_to_server,
)

Script = Callable[[int], int]


class ScriptedService(SpeculationControlServiceServicer, TraceServiceServicer):
    """Answers step ``n`` with ``script(n)``; keeps every profile and every span it is sent."""

    def __init__(self, script: Script, *, valid_for_steps: int = 2, valid_for_ms: int = 2000) -> None:
        self.script = script
        self.valid_for_steps = valid_for_steps
        self.valid_for_ms = valid_for_ms
        self.profiles: list[EngineProfile] = []
        self.exports: list[ExportTraceServiceRequest] = []
        self._lock = threading.Lock()
        self._decisions = 0
        self._server: grpc.Server | None = None

    def start(self, socket: Path) -> str:
        server = self._make_server()
        address = f"unix:{socket}"
        server.add_insecure_port(address)
        server.start()
        return address

    def start_tcp(self, credentials: grpc.ServerCredentials | None = None, port: int = 0) -> str:
        """On loopback; with credentials over TLS. Port 0: any that is free."""
        server = self._make_server()
        wanted = f"127.0.0.1:{port}"
        if credentials is None:
            port = server.add_insecure_port(wanted)
        else:
            port = server.add_secure_port(wanted, credentials)
        server.start()
        return f"127.0.0.1:{port}"

    def _make_server(self) -> grpc.Server:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        add_SpeculationControlServiceServicer_to_server(self, self._server)
        add_TraceServiceServicer_to_server(self, self._server)
        return self._server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=0).wait(5)

    # -- the wire ------------------------------------------------------------

    def Decide(self, request_iterator: Iterator[DecideRequest], context: Any) -> Iterator[DecideResponse]:
        for request in request_iterator:
            if request.HasField("profile"):
                self.profiles.append(request.profile)
                largest = request.profile.max_running_requests
                continue
            with self._lock:
                self._decisions += 1
                decision_id = self._decisions
            yield DecideResponse(
                epoch=request.step.epoch,
                step_index=request.step.step_index,
                decision_id=decision_id,
                model_generation=1,
                valid_for_steps=self.valid_for_steps,
                valid_for_ms=self.valid_for_ms,
                mode=MODE_ENFORCE,
                tiers=[Tier(max_batch_size=largest, num_steps=self.script(request.step.step_index))],
            )

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.exports.append(request)
        return ExportTraceServiceResponse()

    # -- what the tests look at ----------------------------------------------

    def spans(self) -> list[dict[str, Any]]:
        """Attributes of every span received, with ``duration_ms`` and ``name`` added, in order."""
        return [
            {
                **{attribute.key: plain(attribute.value) for attribute in span.attributes},
                "name": span.name,
                "duration_ms": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
            }
            for export in list(self.exports)
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def plain(value: Any) -> Any:
    """An OTLP AnyValue as a Python value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind)
