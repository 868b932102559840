"""The decision stream: profile first, then a lease for the newest request."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
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
from control_service.core.types import EngineProfile, StepQuery
from control_service.core.validation import InvalidFieldError, check_profile, check_query
from control_service.server.convert import lease_to_proto, query_from_proto
from control_service.server.learned import LearnedKeeper
from control_service.server.limits import KeyedBuckets, LogLimit, TokenBucket
from control_service.server.stream import Inbox, StreamRefusedError
from control_service.server.wire import profile_from_proto
from turbospec.v1 import control_pb2, control_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext"
# A stream that never introduces itself must not hold a place for ever.
FIRST_MESSAGE_TIMEOUT_S = 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How many streams at once, how many one engine id may open, how often one stream may ask."""

    streams_max: int
    engines_max: int
    streams_per_engine_per_minute: int
    requests_per_s: int


class DecideServicer(control_pb2_grpc.SpeculationControlServiceServicer):
    """One instance serves all streams; a stream owns its engine until another takes over.

    Counters, for all engines together:
    - `refused_by_cause`: streams ended with an error: stopping, streams_max, engines_max,
      streams_per_engine, no_profile, invalid_profile, invalid_request, undecodable, first_message_timeout,
      fenced_epoch, taken_over;
    - `superseded_total`: requests not answered because a newer one had come;
    - `rate_limited_total`: requests dropped because their stream asked too often.
    """

    def __init__(
        self,
        registry: EngineRegistry,
        learned: LearnedKeeper,
        *,
        limits: StreamLimits,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._learned = learned
        self._limits = limits
        self._clock = clock
        per_minute = limits.streams_per_engine_per_minute
        self._openings = KeyedBuckets(per_s=per_minute / 60.0, burst=per_minute, keys_max=limits.engines_max)
        self._log_limit = LogLimit(clock())
        self._ids = itertools.count(1)
        self._inboxes: dict[int, Inbox] = {}
        self._stopping = False
        self._superseded_before = 0
        self.refused_by_cause: Counter[str] = Counter()
        self.rate_limited_total = 0

    @property
    def refused_total(self) -> int:
        """Streams ended with an error, whatever the cause."""
        return self.refused_by_cause.total()

    @property
    def superseded_total(self) -> int:
        """Requests not answered because a newer one had come, of streams open and ended."""
        return self._superseded_before + sum(inbox.superseded for inbox in self._inboxes.values())

    @property
    def streams_open(self) -> int:
        """Streams open now, introduced or not."""
        return len(self._inboxes)

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
            if len(self._inboxes) >= self._limits.streams_max:
                raise StreamRefusedError(
                    "streams_max",
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._limits.streams_max} streams are open, no more are allowed",
                )
            self._inboxes[stream_id] = Inbox()
            await self._serve(stream_id, self._inboxes[stream_id], context)
        except StreamRefusedError as refusal:
            self._count_refusal(stream_id, refusal)
            await context.abort(refusal.code, refusal.details)
        finally:
            inbox = self._inboxes.pop(stream_id, None)
            self._superseded_before += inbox.superseded if inbox is not None else 0

    def _count_refusal(self, stream_id: int, refusal: StreamRefusedError) -> None:
        self.refused_by_cause[refusal.cause] += 1
        fields = self._log_limit.due(self._clock())
        if fields is not None:
            _log.warning(
                "stream_refused",
                stream=stream_id,
                cause=refusal.cause,
                code=refusal.code.name,
                details=refusal.details,
                **fields,
            )

    async def _serve(self, stream_id: int, inbox: Inbox, context: Context) -> None:
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
                "no_profile",
                grpc.StatusCode.INVALID_ARGUMENT,
                "profile: missing; the first message of a stream must be the profile",
            )
        profile = profile_from_proto(first.profile)
        try:
            check_profile(profile)
            self._check_openings(profile)
            models = await self._learned.models_for(profile)
            known = self._registry.get(profile.engine_id)
            before = known.stream_id if known is not None else None
            entry = self._registry.attach(profile, stream_id, models)
        except InvalidFieldError as error:
            raise _refusal("invalid_profile", grpc.StatusCode.INVALID_ARGUMENT, error) from error
        except FencedEpochError as error:
            raise _refusal("fenced_epoch", grpc.StatusCode.FAILED_PRECONDITION, error) from error
        except TooManyEnginesError as error:
            raise _refusal("engines_max", grpc.StatusCode.RESOURCE_EXHAUSTED, error) from error
        if before in self._inboxes:
            text = f"epoch {profile.epoch} of engine {profile.engine_id!r} took over on another stream"
            self._inboxes[before].close(StreamRefusedError("taken_over", grpc.StatusCode.ABORTED, text))
        return entry

    def _check_openings(self, profile: EngineProfile) -> None:
        """Two agents with one engine id take over from each other; that must not go on at full speed."""
        if self._openings.take(profile.engine_id, self._clock()):
            return
        allowed = self._limits.streams_per_engine_per_minute
        text = (
            f"engine {profile.engine_id!r} opens streams too often; allowed: {allowed} a minute"
            " (do two engines share the name?)"
        )
        raise StreamRefusedError("streams_per_engine", grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    async def _read(self, context: Context, inbox: Inbox) -> None:
        """Move requests from the wire to the inbox until the stream ends."""
        because = None
        per_s = self._limits.requests_per_s
        bucket = TokenBucket(per_s=per_s, burst=per_s, now_s=self._clock())
        try:
            while (request := await _read(context)) is not None:
                now_s = self._clock()
                if bucket.take(now_s):
                    inbox.put(request, now_s)
                else:
                    self.rate_limited_total += 1
        except StreamRefusedError as refusal:
            because = refusal
        finally:
            inbox.close(because)

    async def _answer(self, session: EngineSession, inbox: Inbox, context: Context) -> None:
        while (taken := await inbox.take()) is not None:
            request, arrived_s = taken
            query = _checked_query(request, session.profile.epoch)
            switches = session.counters.switches_total
            lease = session.decide(query)
            await context.write(lease_to_proto(lease))
            session.counters.count_answer(self._clock() - arrived_s)
            if session.counters.switches_total != switches:
                _log_switch(session)
        if inbox.closed_because is not None:
            raise inbox.closed_because


async def _first_message(context: Context) -> control_pb2.DecideRequest | None:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT_S):
            return await _read(context)
    except TimeoutError as error:
        text = f"profile: not received within {FIRST_MESSAGE_TIMEOUT_S:g} s"
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        raise StreamRefusedError("first_message_timeout", code, text) from error


async def _read(context: Context) -> control_pb2.DecideRequest | None:
    """The next message; None at the end of the stream."""
    try:
        message = await context.read()
    except Exception as error:
        # grpc passes on whatever the decoder raised.
        text = f"the message is not a DecideRequest ({type(error).__name__})"
        raise StreamRefusedError("undecodable", grpc.StatusCode.INVALID_ARGUMENT, text) from error
    return None if message is grpc.aio.EOF else message


def _refusal(cause: str, code: grpc.StatusCode, error: Exception) -> StreamRefusedError:
    return StreamRefusedError(cause, code, str(error))


def _stopping_error() -> StreamRefusedError:
    return StreamRefusedError("stopping", grpc.StatusCode.UNAVAILABLE, "the service is stopping")


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
        text = "step: missing; every message after the first must be a step request"
        raise StreamRefusedError("invalid_request", grpc.StatusCode.INVALID_ARGUMENT, text)
    if request.step.epoch != epoch:
        text = f"step.epoch: {request.step.epoch} is not allowed; must be {epoch}"
        raise StreamRefusedError("invalid_request", grpc.StatusCode.INVALID_ARGUMENT, text)
    query = query_from_proto(request.step)
    try:
        check_query(query)
    except InvalidFieldError as error:
        raise _refusal("invalid_request", grpc.StatusCode.INVALID_ARGUMENT, error) from error
    return query
