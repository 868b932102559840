"""The Prometheus endpoint."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

from control_service.server.address import Address, AddressError


class MetricsEndpoint:
    """The HTTP server of one collector."""

    def __init__(self, address: Address, collector: Collector) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        try:
            self._server, self._thread = start_http_server(address.port, address.host, registry)
        except OSError as error:
            raise AddressError(f"{address}: cannot serve metrics there: {error.strerror}") from error
        self.address = address.with_port(self._server.server_port)

    def close(self) -> None:
        """Stop serving; returns when the thread has ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
