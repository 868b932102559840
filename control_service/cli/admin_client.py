"""The control service's admin interface, as the commands use it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf.message import Message

from control_service.cli.channel import TOKEN_VARIABLE, admin_metadata, open_channel
from control_service.cli.errors import CliError, ExitCode
from turbospec.v1 import admin_pb2, admin_pb2_grpc, control_pb2

CALL_TIMEOUT_S: Final = 5.0
_UNREACHABLE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class AdminClient:
    """A connection to one service; every failure is a `CliError`."""

    def __init__(self, control_address: str, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._address = control_address
        self._timeout_s = timeout_s
        self._metadata = admin_metadata()
        self._channel = open_channel(control_address)
        self._stub = admin_pb2_grpc.SpeculationAdminServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def list_engines(self) -> admin_pb2.ListEnginesResponse:
        answer: admin_pb2.ListEnginesResponse = self._call(
            self._stub.ListEngines, admin_pb2.ListEnginesRequest()
        )
        return answer

    def explain(self, engine_id: str, decision_id: int) -> admin_pb2.ExplainDecisionResponse:
        """The newest decision for `decision_id` 0."""
        request = admin_pb2.ExplainDecisionRequest(engine_id=engine_id, decision_id=decision_id)
        answer: admin_pb2.ExplainDecisionResponse = self._call(self._stub.ExplainDecision, request)
        return answer

    def set_mode(
        self, engine_id: str, mode: control_pb2.Mode, canary_percent: int
    ) -> admin_pb2.SetModeResponse:
        request = admin_pb2.SetModeRequest(engine_id=engine_id, mode=mode, canary_percent=canary_percent)
        answer: admin_pb2.SetModeResponse = self._call(self._stub.SetMode, request)
        return answer

    def set_policy(
        self, engine_id: str, policy: str, parameters: Mapping[str, str], *, hold_s: float = 0.0
    ) -> admin_pb2.SetPolicyResponse:
        """For `hold_s` seconds, then the policy before comes back; for good if that is 0."""
        request = admin_pb2.SetPolicyRequest(
            engine_id=engine_id,
            policy=policy,
            parameters=dict(parameters),
            hold_for_ms=math.ceil(hold_s * 1e3),
        )
        answer: admin_pb2.SetPolicyResponse = self._call(self._stub.SetPolicy, request)
        return answer

    def watch_steps(self, engine_id: str, seconds: float | None) -> Iterator[admin_pb2.WatchStepsResponse]:
        """Observed steps of one engine, or of all for an empty name; ends after so many seconds, if given."""
        request = admin_pb2.WatchStepsRequest(engine_id=engine_id)
        call = self._stub.WatchSteps(request, timeout=seconds, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            if seconds is None or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._failure(error) from error
        finally:
            call.cancel()

    def only_engine(self) -> str:
        """The engine that is meant where none is named. Raises `CliError` unless there is exactly one."""
        engines = sorted(engine.profile.engine_id for engine in self.list_engines().engines)
        if len(engines) == 1:
            return engines[0]
        known = ", ".join(engines) or "none is known yet"
        raise CliError(f"ENGINE is not given, and there is not exactly one; engines: {known}", ExitCode.USAGE)

    def _call(self, method: Any, request: Message) -> Any:
        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from error

    def _failure(self, error: Any) -> CliError:
        if error.code() in _UNREACHABLE:
            message = f"no control service answers at {self._address} ({error.code().name})"
            return CliError(message, ExitCode.UNREACHABLE)
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            message = f"{self._address} serves engines alone; name the service's admin address instead"
            return CliError(message, ExitCode.REFUSED)
        message = f"the control service refused: {error.details()} ({error.code().name})"
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            message += f"; name the token's file with --token-file or {TOKEN_VARIABLE}"
        return CliError(message, ExitCode.REFUSED)
