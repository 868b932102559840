"""What an operator asks of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NoReturn, TypeAlias

import grpc
import structlog

from control_service.core.registry import EngineEntry, EngineRegistry, make_policy
from control_service.core.types import Mode
from control_service.core.validation import InvalidFieldError
from control_service.server.convert import (
    explanation_to_proto,
    mode_to_proto,
    models_to_proto,
    status_to_proto,
)
from control_service.server.holds import HOLD_MAX_MS, PolicyHolds
from control_service.server.watch import StepWatchers, TooManyWatchersError, WatchedStep
from control_service.server.wire import observed_step_to_proto, profile_to_proto
from turbospec.v1 import admin_pb2, admin_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext"
_log = structlog.get_logger(__name__)


class AdminServicer(admin_pb2_grpc.SpeculationAdminServiceServicer):
    """Reads sessions, and sets their mode and policy."""

    def __init__(
        self,
        registry: EngineRegistry,
        watchers: StepWatchers,
        *,
        version: str,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._watchers = watchers
        self._version = version
        self._clock = clock
        self._started_s = clock()
        self._holds = PolicyHolds(registry)

    async def ListEngines(
        self, request: admin_pb2.ListEnginesRequest, context: Context
    ) -> admin_pb2.ListEnginesResponse:
        """All known engines."""
        return admin_pb2.ListEnginesResponse(
            service_version=self._version,
            uptime_ms=int((self._clock() - self._started_s) * 1e3),
            engines=[
                status_to_proto(entry, self._holds.left_ms(entry.session.profile.engine_id))
                for entry in self._registry
            ],
        )

    async def GetEngineModels(
        self, request: admin_pb2.GetEngineModelsRequest, context: Context
    ) -> admin_pb2.GetEngineModelsResponse:
        """Fitted models of one engine."""
        return models_to_proto(await self._entry(request.engine_id, context))

    async def ExplainDecision(
        self, request: admin_pb2.ExplainDecisionRequest, context: Context
    ) -> admin_pb2.ExplainDecisionResponse:
        """The newest decision, or the one named."""
        entry = await self._entry(request.engine_id, context)
        decision = entry.session.decision(request.decision_id)
        if decision is None:
            which = f"decision {request.decision_id}" if request.decision_id else "a decision"
            text = f"decision_id: {which} of engine {request.engine_id!r} is not kept"
            await _abort(context, grpc.StatusCode.NOT_FOUND, text)
        return explanation_to_proto(request.engine_id, decision)

    async def SetMode(self, request: admin_pb2.SetModeRequest, context: Context) -> admin_pb2.SetModeResponse:
        """Takes effect with the next lease."""
        entry = await self._entry(request.engine_id, context)
        if int(request.mode) not in {int(mode) for mode in Mode}:
            error = InvalidFieldError("mode", request.mode, f"one of {[mode.name for mode in Mode]}")
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        mode = Mode(request.mode)
        allowed = range(1, 100) if mode is Mode.CANARY else range(1)
        if request.canary_percent not in allowed:
            text = "1 to 99 with MODE_CANARY, else 0"
            error = InvalidFieldError("canary_percent", request.canary_percent, text)
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        entry.session.set_mode(mode, request.canary_percent)
        _log.info(
            "mode_set", engine_id=request.engine_id, mode=mode.name, canary_percent=request.canary_percent
        )
        return admin_pb2.SetModeResponse(mode=mode_to_proto(mode), canary_percent=request.canary_percent)

    async def SetPolicy(
        self, request: admin_pb2.SetPolicyRequest, context: Context
    ) -> admin_pb2.SetPolicyResponse:
        """Takes effect with the next request."""
        entry = await self._entry(request.engine_id, context)
        if request.hold_for_ms > HOLD_MAX_MS:
            error = InvalidFieldError("hold_for_ms", request.hold_for_ms, f"at most {HOLD_MAX_MS}")
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        try:
            policy = make_policy(request.policy, dict(request.parameters), entry.session.profile)
        except InvalidFieldError as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._holds.set_policy(entry, policy, request.parameters, request.hold_for_ms)
        _log.info(
            "policy_set",
            engine_id=request.engine_id,
            policy=policy.name,
            parameters=dict(request.parameters),
            hold_for_ms=request.hold_for_ms,
        )
        return admin_pb2.SetPolicyResponse(policy=policy.name)

    async def WatchSteps(
        self, request: admin_pb2.WatchStepsRequest, context: Context
    ) -> AsyncIterator[admin_pb2.WatchStepsResponse]:
        """Until the caller or the service ends it."""
        if request.engine_id:
            await self._entry(request.engine_id, context)
        introduced: set[tuple[str, int]] = set()
        try:
            with self._watchers.watching(request.engine_id) as watcher:
                async for turn in watcher.turns():
                    yield _watched_to_proto(turn, introduced, watcher.dropped_total)
        except TooManyWatchersError as error:
            await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _entry(self, engine_id: str, context: Context) -> EngineEntry:
        entry = self._registry.get(engine_id)
        if entry is None:
            await _abort(context, grpc.StatusCode.NOT_FOUND, f"engine_id: {engine_id!r} is not known")
        return entry


def _watched_to_proto(
    turn: list[WatchedStep], introduced: set[tuple[str, int]], dropped_total: int
) -> admin_pb2.WatchStepsResponse:
    response = admin_pb2.WatchStepsResponse(dropped_total=dropped_total)
    for profile, step in turn:
        if (profile.engine_id, profile.epoch) not in introduced:
            introduced.add((profile.engine_id, profile.epoch))
            response.engines.append(profile_to_proto(profile))
        response.steps.append(observed_step_to_proto(profile.engine_id, profile.epoch, step))
    return response


async def _abort(context: Context, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details)
    raise AssertionError("abort returned")
