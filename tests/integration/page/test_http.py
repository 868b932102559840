"""The page's server over real HTTP: what it serves, what it refuses, and what a browser is told to allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from control_service.server.app import ControlService
from control_service.server.web.endpoint import CONNECTIONS_MAX
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)

STEPS = 120
TIMEOUT_S = 10.0
ODD_NAME = 'a/b?c=d&e "<script>" ü'


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ControlService]:
    settings = ServiceSettings(listen=f"unix:{tmp_path}/control.sock", metrics_listen="127.0.0.1:0")
    running = ControlService(settings)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def engine(service: ControlService) -> AsyncIterator[SyntheticEngine]:
    profile = make_profile(engine_id=ODD_NAME)
    async with connected_engine(str(service.addresses[0]), profile, Physics(0.8, cheap_drafts)) as running:
        await running.run(STEPS, batch_size=2)
        await running.flush()
        yield running


@pytest.fixture
async def web(service: ControlService) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{service.metrics_address}") as session:
        yield session


async def test_an_engine_is_listed_and_told_by_its_name_whatever_that_is(
    engine: SyntheticEngine, web: aiohttp.ClientSession
) -> None:
    async with web.get("/api/engines") as answer:
        assert answer.content_type == "application/json"
        (listed,) = (await answer.json())["engines"]
    assert listed["engine_id"] == ODD_NAME
    async with web.get("/api/engine", params={"id": ODD_NAME}) as answer:
        told = await answer.json()
    assert told["totals"]["steps"] == STEPS
    assert sum(told["history"]["steps"]) == STEPS
    assert told["now"]["num_steps"] == engine.lengths[-1]
    async with web.get("/api/engine", params={"id": ODD_NAME, "since": told["now_s"] + 60}) as answer:
        assert (await answer.json())["history"]["time_s"] == []


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/api/engine", 400, "id: missing"),
        ("/api/engine?id=x&since=yesterday", 400, "since: 'yesterday' is not allowed; must be Unix seconds"),
        ("/api/engine?id=x&since=nan", 400, "since: 'nan'"),
        ("/api/engine?id=nobody", 404, "engine_id: 'nobody' is not known"),
    ],
)
async def test_a_request_that_makes_no_sense_is_told_why(
    path: str, status: int, says: str, web: aiohttp.ClientSession
) -> None:
    async with web.get(path) as answer:
        assert answer.status == status
        assert says in (await answer.json())["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/index.html",
        "/static/",
        "/../app.py",
        "/%2e%2e/app.py",
        "/vendor/uplot/LICENSE",
    ],
)
async def test_only_what_belongs_to_the_page_is_served(path: str, web: aiohttp.ClientSession) -> None:
    async with web.get(path) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/engines", "/api/engine?id=nobody", "/metrics", "/no"])
async def test_every_answer_carries_the_policy_and_no_cookie(path: str, web: aiohttp.ClientSession) -> None:
    async with web.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
        assert "Server" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/engine", "/metrics"])
async def test_nothing_can_be_changed(method: str, path: str, web: aiohttp.ClientSession) -> None:
    async with web.request(method, path) as answer:
        assert answer.status == 405


async def test_an_unchanged_file_is_not_sent_again(web: aiohttp.ClientSession) -> None:
    async with web.get("/app.js") as first:
        tag = first.headers["ETag"]
        assert first.content_type == "text/javascript"
        assert await first.read()
    async with web.get("/app.js", headers={"If-None-Match": tag}) as again:
        assert again.status == 304
        assert await again.read() == b""
        assert again.headers["ETag"] == tag
    async with web.get("/app.js", headers={"If-None-Match": '"another"'}) as changed:
        assert changed.status == 200


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("", "text/plain"), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")],
)
async def test_metrics_come_in_the_format_that_is_asked_for(
    accept: str, content_type: str, engine: SyntheticEngine, web: aiohttp.ClientSession
) -> None:
    async with web.get("/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"}) as answer:
        assert answer.status == 200
        assert answer.content_type == content_type
        assert answer.headers["Content-Encoding"] == "gzip"
        text = await answer.text()
    assert "# TYPE turbospec_steps" in text
    assert text.rstrip().endswith("# EOF") == (content_type != "text/plain")


async def test_beyond_so_many_connections_it_hangs_up_and_recovers(service: ControlService) -> None:
    async with AsyncExitStack() as held:
        for _ in range(CONNECTIONS_MAX - 1):
            await held.enter_async_context(connected(service))
        # Once the newest is answered, the server knows of all before it.
        newest = await held.enter_async_context(connected(service))
        assert await get(*newest) == b"HTTP/1.1 200 OK\r\n"
        async with connected(service) as surplus:
            assert await get(*surplus) == b""
    async with asyncio.timeout(TIMEOUT_S):
        answer = b""
        while not answer:
            async with connected(service) as later:
                answer = await get(*later)


@asynccontextmanager
async def connected(
    service: ControlService,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = service.metrics_address
    assert address is not None
    reader, writer = await asyncio.open_connection(address.host, address.port)
    yield reader, writer
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first line of an answer; nothing if the server hung up."""
    with suppress(ConnectionError):
        writer.write(b"GET /api/engines HTTP/1.1\r\nHost: x\r\n\r\n")
        return await asyncio.wait_for(reader.readline(), TIMEOUT_S)
    return b""
