"""One decision stream: why it is ended, and the request that waits for an answer."""

from __future__ import annotations

import asyncio

import grpc

from turbospec.v1 import control_pb2


class StreamRefusedError(Exception):
    """Ends a stream with a status; `cause` is from a fixed vocabulary and is what is counted."""

    def __init__(self, cause: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.cause = cause
        self.code = code
        self.details = details


class Inbox:
    """Holds the newest unanswered request; an older one it replaces is not answered.

    `closed_because` is why no more will be taken: None if the engine ended the stream itself.
    """

    def __init__(self) -> None:
        self.superseded = 0
        self.closed_because: StreamRefusedError | None = None
        self._newest: tuple[control_pb2.DecideRequest, float] | None = None
        self._answered: control_pb2.DecideRequest | None = None
        self._closed = False
        self._wake = asyncio.Event()

    def put(self, request: control_pb2.DecideRequest, arrived_s: float) -> None:
        """A request arrived."""
        if self._newest is not None:
            self.superseded += 1
        self._newest = (request, arrived_s)
        self._wake.set()

    def repeat(self, now_s: float) -> None:
        """What was answered last is to be answered again: the answer has changed."""
        if self._newest is None and self._answered is not None:
            self._newest = (self._answered, now_s)
            self._wake.set()

    def close(self, because: StreamRefusedError | None = None) -> None:
        """Nothing more will come; the first to say so says why."""
        if not self._closed:
            self._closed, self.closed_because = True, because
            self._wake.set()

    async def take(self) -> tuple[control_pb2.DecideRequest, float] | None:
        """The newest request and when it arrived; None once nothing more will be taken."""
        while self._newest is None and not self._closed:
            self._wake.clear()
            await self._wake.wait()
        if self.closed_because is not None:
            return None
        newest, self._newest = self._newest, None
        if newest is not None:
            self._answered = newest[0]
        return newest
