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

from control_service.core.mode_spelling import parse_mode
from control_service.core.registry import EngineRegistry
from control_service.core.session import LeaseTerms
from control_service.server import garbage
from control_service.server.address import Address
from control_service.server.admin import AdminServicer
from control_service.server.admin_guard import AdminGuard
from control_service.server.decide import DecideServicer, StreamLimits
from control_service.server.learned import LearnedKeeper
from control_service.server.listen import Listener, make_server, wanted_addresses
from control_service.server.metrics import OtlpPusher, ServiceCollector, ServiceSources
from control_service.server.tls import TlsIdentity
from control_service.server.trace import SERVICE_NAME as TRACE_SERVICE_NAME
from control_service.server.trace import TraceServicer
from control_service.server.watch import StepWatchers
from control_service.server.web.endpoint import WebEndpoint
from control_service.server.web.history import StepHistory
from control_service.server.web.views import PageViews
from control_service.settings import ServiceSettings
from control_service.store.open import open_store
from turbospec.v1 import admin_pb2, admin_pb2_grpc, control_pb2, control_pb2_grpc

CONTROL_SERVICE_NAME = control_pb2.DESCRIPTOR.services_by_name["SpeculationControlService"].full_name
ADMIN_SERVICE_NAME = admin_pb2.DESCRIPTOR.services_by_name["SpeculationAdminService"].full_name
# The empty name is the server as a whole.
HEALTH_COMPONENTS = ("", CONTROL_SERVICE_NAME, ADMIN_SERVICE_NAME, TRACE_SERVICE_NAME)

_log = structlog.get_logger(__name__)


class ControlService:
    """The running service: `start`, then `stop` once. Addresses are known after `start`.

    Raises StartError where TLS or token files cannot be used.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._version = version("turbospec")
        engine_addresses, admin_addresses = wanted_addresses(settings)
        self._tls = TlsIdentity(settings.tls_files) if settings.tls_files is not None else None
        mode, canary_percent = parse_mode(settings.mode)
        self.registry = EngineRegistry(
            engines_max=settings.engines_max,
            mode=mode,
            canary_percent=canary_percent,
            terms=LeaseTerms(
                settings.lease_valid_for_steps, settings.lease_valid_for_ms, settings.decisions_kept
            ),
        )
        self._watchers = StepWatchers()
        self._learned = LearnedKeeper(
            open_store(settings.store), self.registry, save_interval_s=settings.store_save_interval_s
        )
        self._decide = DecideServicer(
            self.registry,
            self._learned,
            limits=StreamLimits(
                streams_max=settings.streams_max,
                engines_max=settings.engines_max,
                streams_per_engine_per_minute=settings.streams_per_engine_per_minute,
                requests_per_s=settings.requests_per_s,
            ),
            clock=time.perf_counter,
        )
        self._history = StepHistory(engines_max=settings.engines_max, clock=time.time)
        self._trace = TraceServicer(
            self.registry,
            self._watchers,
            self._history,
            spans_per_s=settings.spans_per_s,
            engines_max=settings.engines_max,
            clock=time.perf_counter,
        )
        self._health = health.aio.HealthServicer()
        self._admin_guard = AdminGuard(
            ADMIN_SERVICE_NAME,
            settings.admin_token_file,
            open_without_token=all(address.is_loopback for address in engine_addresses),
            clock=time.perf_counter,
        )
        self._listeners = self._make_listeners(engine_addresses, admin_addresses)
        self._web: WebEndpoint | None = None
        self._otlp_metrics: OtlpPusher | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where engines connect; none before `start`."""
        return self._listeners[0].addresses

    @property
    def admin_address(self) -> Address | None:
        """Where alone admin rpcs are served; None if that is where engines connect."""
        return self._listeners[1].addresses[0] if len(self._listeners) > 1 else None

    @property
    def metrics_address(self) -> Address | None:
        """Where metrics and the page are served; None if they are not."""
        return self._web.address if self._web is not None else None

    async def start(self) -> None:
        """Bind everything and serve. Raises AddressError; nothing is left bound then."""
        try:
            for listener in self._listeners:
                listener.bind()
            await self._start_metrics()
            for listener in self._listeners:
                await listener.server.start()
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
        grace_s = self._settings.shutdown_grace_s
        await asyncio.gather(*(listener.server.stop(grace_s) for listener in self._listeners))
        await self._learned.stop()
        if self._otlp_metrics is not None:
            await self._otlp_metrics.stop()
        if self._web is not None:
            await self._web.close()
        for listener in self._listeners:
            listener.remove_sockets()

    async def _start_metrics(self) -> None:
        settings = self._settings
        sources = ServiceSources(
            self.registry, self._decide, self._trace, self._learned, self._admin_guard, self._version
        )
        collector = ServiceCollector(sources)
        if settings.metrics_listen:
            views = PageViews(self.registry, self._history, version=self._version, clock=time.time)
            self._web = WebEndpoint(Address.parse(settings.metrics_listen), views, collector)
            await self._web.start()
        if settings.otlp_metrics_endpoint:
            self._otlp_metrics = OtlpPusher(
                collector,
                sources.otlp_pushes,
                endpoint=settings.otlp_metrics_endpoint,
                interval_s=settings.otlp_metrics_interval_s,
                version=self._version,
            )
            self._otlp_metrics.start()

    def _make_listeners(
        self, engine_addresses: tuple[Address, ...], admin_addresses: tuple[Address, ...]
    ) -> tuple[Listener, ...]:
        """One for engines, and one for operators if they are to have their own."""
        engines = make_server(self._settings, [self._admin_guard])
        control_pb2_grpc.add_SpeculationControlServiceServicer_to_server(self._decide, engines)
        engines.add_generic_rpc_handlers((self._trace.handler(),))
        operators = make_server(self._settings, [self._admin_guard]) if admin_addresses else engines
        admin = AdminServicer(self.registry, self._watchers, version=self._version, clock=time.perf_counter)
        admin_pb2_grpc.add_SpeculationAdminServiceServicer_to_server(admin, operators)
        listener = Listener(engines, engine_addresses, self._tls)
        if operators is engines:
            self._add_common(engines, (CONTROL_SERVICE_NAME, ADMIN_SERVICE_NAME, TRACE_SERVICE_NAME))
            return (listener,)
        self._add_common(engines, (CONTROL_SERVICE_NAME, TRACE_SERVICE_NAME))
        self._add_common(operators, (ADMIN_SERVICE_NAME,))
        return listener, Listener(operators, admin_addresses, self._tls)

    def _add_common(self, server: grpc.aio.Server, services: tuple[str, ...]) -> None:
        """Health of all components, and reflection of what is served here."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

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
    garbage.settle()
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
        admin = str(service.admin_address) if service.admin_address is not None else ""
        content = json.dumps({"grpc": grpc_addresses, "admin": admin, "metrics": metrics, "pid": os.getpid()})
        partial = ready_file.with_name(ready_file.name + ".partial")
        partial.write_text(content + "\n")
        partial.replace(ready_file)
    print(
        f"turbospec control service ready: grpc {','.join(grpc_addresses)} metrics {metrics or '-'}",
        flush=True,
    )
