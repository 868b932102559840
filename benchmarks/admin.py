"""The control service's own counters, read around each run of ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import grpc

from benchmarks.results import ControlDelta, Quantiles
from turbospec.v1 import admin_pb2, admin_pb2_grpc, control_pb2

CALL_TIMEOUT_S = 5.0
Key = TypeVar("Key", str, int)


class Admin:
    """A client of SpeculationAdminService."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = admin_pb2_grpc.SpeculationAdminServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def engine(self, engine_id: str) -> admin_pb2.EngineStatus:
        """The status of one engine.

        Raises:
            LookupError: the service does not know it.
            grpc.aio.AioRpcError: the service cannot be reached.
        """
        engines = await self.engines()
        for status in engines:
            if status.profile.engine_id == engine_id:
                return status
        known = ", ".join(status.profile.engine_id for status in engines) or "none"
        raise LookupError(f"engine_id={engine_id!r} is not known to the control service; known: {known}")

    async def engines(self) -> list[admin_pb2.EngineStatus]:
        """The status of every engine."""
        response = await self._stub.ListEngines(admin_pb2.ListEnginesRequest(), timeout=CALL_TIMEOUT_S)
        return list(response.engines)

    async def set_policy(
        self, engine_id: str, policy: str, *, hold_for_ms: int = 0, **parameters: str
    ) -> None:
        """Let `policy` decide from the next step on: for so long, or for good if that is 0."""
        request = admin_pb2.SetPolicyRequest(
            engine_id=engine_id, policy=policy, parameters=parameters, hold_for_ms=hold_for_ms
        )
        await self._stub.SetPolicy(request, timeout=CALL_TIMEOUT_S)


def control_delta(before: admin_pb2.EngineStatus, after: admin_pb2.EngineStatus) -> ControlDelta:
    """What was counted between two readings of the same engine.

    Raises:
        ValueError: the engine was restarted in between.
    """
    if before.profile.epoch != after.profile.epoch:
        raise ValueError(f"epoch={after.profile.epoch}: the engine was restarted during the run")
    return ControlDelta(
        policy=after.policy,
        mode=mode_name(after.mode),
        steps=after.steps_total - before.steps_total,
        switches=after.switches_total - before.switches_total,
        committed_tokens=after.committed_tokens_total - before.committed_tokens_total,
        accepted_tokens=after.accepted_tokens_total - before.accepted_tokens_total,
        draft_tokens=after.draft_tokens_total - before.draft_tokens_total,
        decisions=after.decisions_total - before.decisions_total,
        steps_by_source=_counts(before.steps_by_source, after.steps_by_source),
        fallbacks_by_reason=_counts(before.fallbacks_by_reason, after.fallbacks_by_reason),
        steps_by_num_steps=_counts(before.steps_by_num_steps, after.steps_by_num_steps),
        drops_by_cause=_counts(before.drops_by_cause, after.drops_by_cause),
        step_control_us=_quantiles(after.step_control_us),
        decision_wait_us=_quantiles(after.decision_wait_us),
        answer_us=_quantiles(after.answer_us),
    )


def mode_name(mode: control_pb2.Mode) -> str:
    """`enforce` for MODE_ENFORCE, and so on."""
    return control_pb2.Mode.Name(mode).removeprefix("MODE_").lower()


def _counts(before: Mapping[Key, int], after: Mapping[Key, int]) -> dict[Key, int]:
    return {key: after[key] - before.get(key, 0) for key in after if after[key] > before.get(key, 0)}


def _quantiles(message: admin_pb2.Quantiles) -> Quantiles:
    return Quantiles(count=message.count, p50=message.p50, p99=message.p99, max=message.max)
