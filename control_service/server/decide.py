"""The decision stream: profile first, then a lease for the newest request."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TypeAlias

import grpc
import structlog

from control_service.core.registry import (
    EngineEntry,
    EngineRegistry,
    FencedEpochError,
    TooManyEnginesError,
)
from control_service.core.session import EngineSession
from control_service.core.types import StepQuery
from control_service.core.validation import InvalidFieldError, check_query
from control_service.server.convert import lease_to_proto, query_from_proto
from control_service.server.learned import LearnedKeeper
from control_service.server.wire import profile_from_proto
from turbospec.v1 import control_pb2, control_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext"
# A stream that never introduces itself must not hold a place for ever.
FIRST_MESSAGE_TIMEOUT_S = 10.0

_log = structlog.get_logger(__name__)


class StreamRefusedError(Exception):
    """Ends a stream with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _Inbox:
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


class DecideServicer(control_pb2_grpc.SpeculationControlServiceServicer):
    """One instance serves all streams; a stream owns its engine until another takes over."""

    def __init__(
        self,
        registry: EngineRegistry,
        learned: LearnedKeeper,
        *,
        streams_max: int,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._learned = learned
        self._streams_max = streams_max
        self._clock = clock
        self._ids = itertools.count(1)
        self._inboxes: dict[int, _Inbox] = {}
        self._stopping = False
        self.refused_total = 0
        self.superseded_total = 0

    def close(self) -> None:
        """End all streams now, and refuse new ones."""
        self._stopping = True
        for inbox in self._inboxes.values():
            inbox.close(_stopping_error())

    async def Decide(self, request_iterator: object, context: Context) -> None:
        """See the wire contract."""
        stream_id = next(self._ids)
        try:
            if self._stopping:
                raise _stopping_error()
            if len(self._inboxes) >= self._streams_max:
                raise StreamRefusedError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._streams_max} streams are open, no more are allowed",
                )
            self._inboxes[stream_id] = _Inbox()
            await self._serve(stream_id, self._inboxes[stream_id], context)
        except StreamRefusedError as refusal:
            self.refused_total += 1
            _log.warning("stream_refused", stream=stream_id, code=refusal.code.name, details=refusal.details)
            await context.abort(refusal.code, refusal.details)
        finally:
            inbox = self._inboxes.pop(stream_id, None)
            self.superseded_total += inbox.superseded if inbox is not None else 0

    async def _serve(self, stream_id: int, inbox: _Inbox, context: Context) -> None:
        first = await _first_message(context)
        if first is None:
            return
        entry = await self._introduce(first, stream_id)
        profile = entry.session.profile
        identity = {"engine_id": profile.engine_id, "epoch": profile.epoch, "stream": stream_id}
        _log.info("engine_connected", **identity)
        entry.session.on_change = lambda: inbox.repeat(self._clock())
        reader = asyncio.create_task(self._read(context, inbox))
        try:
            await self._answer(entry.session, inbox, context)
        finally:
            reader.cancel()
            self._registry.detach(profile.engine_id, stream_id)
            _log.info("engine_disconnected", **identity)

    async def _introduce(self, first: control_pb2.DecideRequest, stream_id: int) -> EngineEntry:
        if first.WhichOneof("body") != "profile":
            raise StreamRefusedError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "profile: missing; the first message of a stream must be the profile",
            )
        profile = profile_from_proto(first.profile)
        try:
            models = await self._learned.models_for(profile)
            known = self._registry.get(profile.engine_id)
            before = known.stream_id if known is not None else None
            entry = self._registry.attach(profile, stream_id, models)
        except InvalidFieldError as error:
            raise StreamRefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        except FencedEpochError as error:
            raise StreamRefusedError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from error
        except TooManyEnginesError as error:
            raise StreamRefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        if before in self._inboxes:
            text = f"epoch {profile.epoch} of engine {profile.engine_id!r} took over on another stream"
            self._inboxes[before].close(StreamRefusedError(grpc.StatusCode.ABORTED, text))
        return entry

    async def _read(self, context: Context, inbox: _Inbox) -> None:
        """Move requests from the wire to the inbox until the stream ends."""
        because = None
        try:
            while (request := await _read(context)) is not None:
                inbox.put(request, self._clock())
        except StreamRefusedError as refusal:
            because = refusal
        finally:
            inbox.close(because)

    async def _answer(self, session: EngineSession, inbox: _Inbox, context: Context) -> None:
        while (taken := await inbox.take()) is not None:
            request, arrived_s = taken
            query = _checked_query(request, session.profile.epoch)
            switches = session.counters.switches_total
            lease = session.decide(query)
            await context.write(lease_to_proto(lease))
            session.counters.count_answer(self._clock() - arrived_s)
            if session.counters.switches_total != switches:
                _log_switch(session)
        _raise_if_refused(inbox)


async def _first_message(context: Context) -> control_pb2.DecideRequest | None:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT_S):
            return await _read(context)
    except TimeoutError as error:
        text = f"profile: not received within {FIRST_MESSAGE_TIMEOUT_S:g} s"
        raise StreamRefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, text) from error


async def _read(context: Context) -> control_pb2.DecideRequest | None:
    """The next message; None at the end of the stream."""
    try:
        message = await context.read()
    except Exception as error:
        # grpc passes on whatever the decoder raised.
        text = f"the message is not a DecideRequest ({type(error).__name__})"
        raise StreamRefusedError(grpc.StatusCode.INVALID_ARGUMENT, text) from error
    return None if message is grpc.aio.EOF else message


def _stopping_error() -> StreamRefusedError:
    return StreamRefusedError(grpc.StatusCode.UNAVAILABLE, "the service is stopping")


def _raise_if_refused(inbox: _Inbox) -> None:
    if inbox.closed_because is not None:
        raise inbox.closed_because


def _log_switch(session: EngineSession) -> None:
    decision = session.decisions[-1]
    _log.info(
        "length_switched",
        engine_id=session.profile.engine_id,
        step_index=decision.query.step_index,
        batch_size=decision.query.batch_size,
        num_steps=decision.choice.num_steps,
        reason=decision.choice.reason,
    )


def _checked_query(request: control_pb2.DecideRequest, epoch: int) -> StepQuery:
    if request.WhichOneof("body") != "step":
        raise StreamRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "step: missing; every message after the first must be a step request",
        )
    if request.step.epoch != epoch:
        raise StreamRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"step.epoch: {request.step.epoch} is not allowed; must be {epoch}",
        )
    query = query_from_proto(request.step)
    try:
        check_query(query)
    except InvalidFieldError as error:
        raise StreamRefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
    return query
