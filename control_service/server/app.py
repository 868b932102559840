"""Puts the service together, runs it, and takes it down in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from control_service.core.registry import EngineRegistry
from control_service.core.session import LeaseTerms
from control_service.core.types import Mode
from control_service.server.address import Address, AddressError, parse_addresses, prepare_unix_socket
from control_service.server.admin import AdminServicer
from control_service.server.decide import DecideServicer
from control_service.server.learned import LearnedKeeper
from control_service.server.metrics import MetricsEndpoint, OtlpPusher, ServiceCollector, ServiceSources
from control_service.server.trace import SERVICE_NAME as TRACE_SERVICE_NAME
from control_service.server.trace import TraceServicer
from control_service.server.watch import StepWatchers
from control_service.settings import ServiceSettings
from control_service.store.sqlite import SqliteStore
from turbospec.v1 import admin_pb2, admin_pb2_grpc, control_pb2, control_pb2_grpc

CONTROL_SERVICE_NAME = control_pb2.DESCRIPTOR.services_by_name["SpeculationControlService"].full_name
ADMIN_SERVICE_NAME = admin_pb2.DESCRIPTOR.services_by_name["SpeculationAdminService"].full_name
# The empty name is the server as a whole.
HEALTH_COMPONENTS = ("", CONTROL_SERVICE_NAME, ADMIN_SERVICE_NAME, TRACE_SERVICE_NAME)
PRIVATE_UMASK = 0o177

_log = structlog.get_logger(__name__)


class ControlService:
    """The running service: `start`, then `stop` once. Addresses are known after `start`."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self.registry = EngineRegistry(
            engines_max=settings.engines_max,
            mode=Mode[settings.mode.upper()],
            terms=LeaseTerms(
                settings.lease_valid_for_steps, settings.lease_valid_for_ms, settings.decisions_kept
            ),
        )
        self._version = version("turbospec")
        self._watchers = StepWatchers()
        self._learned = LearnedKeeper(
            SqliteStore(Path(settings.store)) if settings.store else None,
            self.registry,
            save_interval_s=settings.store_save_interval_s,
        )
        self._decide = DecideServicer(
            self.registry, self._learned, streams_max=settings.streams_max, clock=time.perf_counter
        )
        self._trace = TraceServicer(self.registry, self._watchers)
        self._health = health.aio.HealthServicer()
        self._server = self._make_server()
        self._metrics: MetricsEndpoint | None = None
        self._otlp_metrics: OtlpPusher | None = None
        self.addresses: tuple[Address, ...] = ()

    @property
    def metrics_address(self) -> Address | None:
        """Where metrics are served; None if they are not."""
        return self._metrics.address if self._metrics is not None else None

    async def start(self) -> None:
        """Bind everything and serve. Raises AddressError; nothing is left bound then."""
        wanted = parse_addresses(self._settings.listen)
        for address in wanted:
            if not address.is_loopback and not self._settings.insecure:
                raise AddressError(
                    f"{address}: plain-text TCP beyond loopback is refused;"
                    " use a Unix socket, or pass --insecure"
                )
        try:
            self.addresses = tuple(self._bind(address) for address in wanted)
            self._start_metrics()
            await self._server.start()
        except BaseException:
            await self.stop()
            raise
        self._learned.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Health first, so that nobody new comes; then streams, what was learned, metrics, socket files."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._decide.close()
        self._watchers.close()
        await self._server.stop(self._settings.shutdown_grace_s)
        await self._learned.stop()
        if self._otlp_metrics is not None:
            await self._otlp_metrics.stop()
        if self._metrics is not None:
            # In a thread: a scrape under way still needs this loop.
            await asyncio.to_thread(self._metrics.close)
        for address in self.addresses:
            if address.is_unix:
                Path(address.path).unlink(missing_ok=True)

    def _start_metrics(self) -> None:
        settings = self._settings
        sources = ServiceSources(self.registry, self._decide, self._trace, self._version)
        collector = ServiceCollector(sources)
        if settings.metrics_listen:
            self._metrics = MetricsEndpoint(Address.parse(settings.metrics_listen), collector)
        if settings.otlp_metrics_endpoint:
            self._otlp_metrics = OtlpPusher(
                collector,
                sources.otlp_pushes,
                endpoint=settings.otlp_metrics_endpoint,
                interval_s=settings.otlp_metrics_interval_s,
                version=self._version,
            )
            self._otlp_metrics.start()

    def _make_server(self) -> grpc.aio.Server:
        limit = self._settings.message_max_bytes
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.so_reuseport", 0),
            ]
        )
        control_pb2_grpc.add_SpeculationControlServiceServicer_to_server(self._decide, server)
        admin_pb2_grpc.add_SpeculationAdminServiceServicer_to_server(
            AdminServicer(self.registry, self._watchers, version=self._version, clock=time.perf_counter),
            server,
        )
        server.add_generic_rpc_handlers((self._trace.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (*HEALTH_COMPONENTS[1:], health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server

    def _bind(self, address: Address) -> Address:
        if address.is_unix:
            prepare_unix_socket(address.path)
        before = os.umask(PRIVATE_UMASK) if address.is_unix else None
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise AddressError(f"{address}: cannot listen there ({error})") from error
        finally:
            if before is not None:
                os.umask(before)
        return address if address.is_unix else address.with_port(port)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for component in HEALTH_COMPONENTS:
            await self._health.set(component, status)


async def serve(settings: ServiceSettings) -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    service = ControlService(settings)
    await service.start()
    try:
        _announce(service, settings.ready_file)
        await stopping.wait()
        _log.info("stopping")
    finally:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        await service.stop()
    _log.info("stopped")


def _announce(service: ControlService, ready_file: Path | None) -> None:
    grpc_addresses = [str(address) for address in service.addresses]
    metrics = f"http://{service.metrics_address}/metrics" if service.metrics_address else ""
    if ready_file is not None:
        content = json.dumps({"grpc": grpc_addresses, "metrics": metrics, "pid": os.getpid()})
        partial = ready_file.with_name(ready_file.name + ".partial")
        partial.write_text(content + "\n")
        partial.replace(ready_file)
    print(
        f"turbospec control service ready: grpc {','.join(grpc_addresses)} metrics {metrics or '-'}",
        flush=True,
    )
