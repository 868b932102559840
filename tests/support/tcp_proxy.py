"""A TCP relay of ours that can go silent: what a dead firewall or a vanished host looks like from outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

CHUNK_BYTES: Final = 64 * 1024
START_TIMEOUT_S: Final = 10.0


class TcpProxy:
    """Relays ``127.0.0.1:port`` to a Unix socket, on a thread of its own.

    A frozen relay keeps every connection open, takes new ones, and moves no byte.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        # Set: bytes move. A connection keeps the gate that it was made under.
        self._gate = asyncio.Event()
        self._relays: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        self._call(self._start())

    def stop(self) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()

    def freeze(self) -> None:
        """Nothing moves any more, nothing is closed."""
        self._call(self._freeze())

    def thaw(self) -> None:
        """What was held back arrives, late."""
        self._call(self._thaw())

    def forget(self) -> None:
        """Connections made so far stay open and dead for ever; new ones work."""
        self._call(self._forget())

    def cut(self) -> None:
        """Close every connection."""
        self._call(self._cut())

    def switch(self, target: Path) -> None:
        """Connections from now on go elsewhere; those made so far are closed."""
        self._target = target
        self.cut()

    # -- on the loop's thread --------------------------------------------------

    async def _start(self) -> None:
        self._gate.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()

    async def _freeze(self) -> None:
        self._gate.clear()

    async def _thaw(self) -> None:
        self._gate.set()

    async def _forget(self) -> None:
        self._gate.clear()
        self._gate = asyncio.Event()
        self._gate.set()

    async def _cut(self) -> None:
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        gate = self._gate
        onward: asyncio.StreamWriter | None = None
        try:
            back, onward = await asyncio.open_unix_connection(str(self._target))
            await asyncio.gather(_relay(reader, onward, gate), _relay(back, writer, gate))
        except (OSError, asyncio.CancelledError):
            # Nobody listens, or this connection was cut: the other end is to see that too.
            pass
        finally:
            for end in (writer, onward):
                if end is not None:
                    end.transport.abort()
            self._relays.discard(task)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    """Bytes of one direction, until it ends or breaks."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            await gate.wait()
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
