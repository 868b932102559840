"""The HTTP server: `/` the page, `/api/...` its JSON, `/metrics` for Prometheus. GET only, no cookies.

It runs on the service's own event loop, so that views read sessions without a lock. Only the
text of a scrape is made in a thread, since it is long and its collector asks this loop.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
from typing import Final

from aiohttp import ETag, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from control_service.server.address import Address, AddressError
from control_service.server.web.static_files import static_files
from control_service.server.web.values import Json
from control_service.server.web.views import PageViews, UnknownEngineError

BACKLOG: Final = 64
CONNECTIONS_MAX: Final = 64
KEEPALIVE_S: Final = 15.0
SHUTDOWN_S: Final = 1.0
SCRAPES_MAX: Final = 4
# What is longer is compressed in a thread.
COMPRESSED_HERE_BYTES: Final = 4_096
SECURITY_HEADERS: Final = {
    # Nothing but our own files; no inline script, no inline style, nobody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
JSON_TYPE: Final = "application/json"


class WebEndpoint:
    """Bound when made; serves from `start` to `close`."""

    def __init__(self, address: Address, views: PageViews, collector: Collector) -> None:
        """Raises AddressError if the address cannot be had."""
        self._views = views
        self._metrics = CollectorRegistry()
        self._metrics.register(collector)
        self._scrapes = 0
        self._listener: asyncio.Server | None = None
        self._files = static_files()
        self._socket = _listen(address)
        self.address = address.with_port(self._socket.getsockname()[1])
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=SHUTDOWN_S,
        )

    async def start(self) -> None:
        """Serve."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._protocol, sock=self._socket, backlog=BACKLOG)

    async def close(self) -> None:
        """Let open requests end, then stop."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()
        self._socket.close()

    def _protocol(self) -> asyncio.Protocol:
        """What speaks on a new connection."""
        server = self._runner.server
        if server is None or len(server.connections) >= CONNECTIONS_MAX:
            return _Refusal()
        return server()

    def _application(self) -> web.Application:
        application = web.Application()
        application.on_response_prepare.append(_secure)
        application.router.add_get("/metrics", self._get_metrics)
        application.router.add_get("/api/engines", self._get_engines)
        application.router.add_get("/api/engine", self._get_engine)
        for path in self._files:
            application.router.add_get(path, self._get_file)
        return application

    async def _get_file(self, request: web.Request) -> web.Response:
        file = self._files[request.path]
        tag = ETag(file.tag)
        headers = {"Cache-Control": "no-cache"}
        if request.if_none_match is not None and tag in request.if_none_match:
            response = web.Response(status=304, headers=headers)
        else:
            response = web.Response(
                body=file.body, content_type=file.content_type, charset="utf-8", headers=headers
            )
        response.etag = tag
        return response

    async def _get_engines(self, request: web.Request) -> web.Response:
        return _json(await self._views.engines())

    async def _get_engine(self, request: web.Request) -> web.Response:
        engine_id = request.query.get("id")
        if engine_id is None:
            raise web.HTTPBadRequest(text=_error("id: missing"), content_type=JSON_TYPE)
        since_s = _seconds(request.query.get("since", "0"))
        if since_s is None:
            text = f"since: {request.query['since']!r} is not allowed; must be Unix seconds"
            raise web.HTTPBadRequest(text=_error(text), content_type=JSON_TYPE)
        try:
            return _json(self._views.engine(engine_id, since_s))
        except UnknownEngineError as error:
            raise web.HTTPNotFound(text=_error(str(error)), content_type=JSON_TYPE) from error

    async def _get_metrics(self, request: web.Request) -> web.Response:
        if self._scrapes == SCRAPES_MAX:
            raise web.HTTPServiceUnavailable(text=f"{SCRAPES_MAX} scrapes are under way\n")
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        self._scrapes += 1
        try:
            body = await asyncio.to_thread(encoder, self._metrics)
        finally:
            self._scrapes -= 1
        response = web.Response(
            body=body, headers={"Content-Type": content_type}, zlib_executor_size=COMPRESSED_HERE_BYTES
        )
        response.enable_compression()
        return response


class _Refusal(asyncio.Protocol):
    """Hangs up: idle connections too take a file descriptor, which the decision streams need."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.popall("Server", None)


def _json(view: dict[str, Json]) -> web.Response:
    return web.Response(text=json.dumps(view, allow_nan=False), content_type=JSON_TYPE)


def _error(text: str) -> str:
    return json.dumps({"error": text})


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _listen(address: Address) -> socket.socket:
    try:
        family, *_, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise AddressError(f"{address}: cannot serve metrics there: {error.strerror}") from error
