"""A peer that is gone is noticed; one that is only silent is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from control_service.server.app import ControlService
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from turbospec.v1 import control_pb2

PHYSICS = Physics(0.8, cheap_drafts)


class Relay:
    """A wire between engine and service that can be cut without either end being told."""

    def __init__(self, port: int) -> None:
        self._target_port = port
        self._cut = False
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """From here on nothing gets through, and nothing is closed."""
        self._cut = True

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for end in self._ends:
            end.close()
        closing = (end.wait_closed() for end in self._ends)
        await asyncio.gather(*self._tasks, *closing, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._ends += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.append(asyncio.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            if not self._cut:
                sink.write(data)
                await sink.drain()


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(
        listen="127.0.0.1:0",
        metrics_listen="",
        shutdown_grace_s=0.2,
        keepalive_s=1.0,
        keepalive_timeout_s=0.5,
    )


@pytest.fixture
async def relay(service: ControlService) -> AsyncIterator[Relay]:
    running = Relay(service.addresses[0].port)
    await running.start()
    yield running
    await running.close()


async def test_a_dead_connection_ends_its_stream_and_a_silent_one_goes_on(
    service: ControlService, relay: Relay
) -> None:
    direct = str(service.addresses[0])
    async with (
        connected_engine(direct, make_profile("silent"), PHYSICS) as silent,
        grpc.aio.insecure_channel(relay.address) as cut_off,
    ):
        await silent.ask(1)
        lost = SyntheticEngine(cut_off, make_profile("lost"), PHYSICS)
        await lost.introduce()
        await lost.ask(1)
        entry = service.registry.get("lost")
        assert entry is not None
        assert entry.connected
        relay.cut()
        async with asyncio.timeout(30):
            while entry.connected:
                await asyncio.sleep(0.05)
        # The other has said nothing all the while, and is answered when it asks again.
        assert (await silent.ask(2)).mode == control_pb2.MODE_ENFORCE
        assert service._decide.streams_open == 1
