"""Who may call the admin service: whoever can open a Unix socket of ours, over TCP whoever has the token.

The file modes guard a Unix socket. A client certificate proves an engine, not an operator, so that TCP
wants the token with mutual TLS too.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import structlog

from control_service.server.errors import StartError
from control_service.server.limits import LogLimit

TOKEN_MIN_CHARACTERS = 16
TOKEN_MAX_BYTES = 4_096
_SCHEME = "Bearer "

_log = structlog.get_logger(__name__)


class TokenFileError(StartError):
    """A token file that cannot be used; the text says why, and never what is in it."""


class _Denial(NamedTuple):
    """Why a call is refused: for the counter, for the caller, and for the log alone."""

    cause: str
    code: grpc.StatusCode
    details: str
    reason: str = ""


_NO_TOKEN_FILE = _Denial(
    "no_token_file",
    grpc.StatusCode.PERMISSION_DENIED,
    "admin rpcs need admin_token_file to be served over TCP; use a Unix socket of the service",
)
_TOKEN_FILE_UNUSABLE = _Denial(
    "token_file_unusable",
    grpc.StatusCode.PERMISSION_DENIED,
    "admin_token_file cannot be used now; the log of the service says why",
)
_NO_TOKEN = _Denial(
    "no_token",
    grpc.StatusCode.UNAUTHENTICATED,
    "authorization: missing; must be 'Bearer TOKEN' with the token of admin_token_file",
)
_WRONG_TOKEN = _Denial(
    "wrong_token",
    grpc.StatusCode.UNAUTHENTICATED,
    "authorization: the token is not that of admin_token_file",
)


class AdminGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses admin rpcs that come over TCP without the token; others pass untouched.

    `open_without_token`: a missing `token_file` lets everybody in, for a service that only this machine can
    reach; otherwise it lets nobody in. The file is read at every call, so that a token can be replaced.
    `denied_by_cause` counts refused calls: no_token_file, token_file_unusable, no_token, wrong_token.
    """

    def __init__(
        self,
        service_name: str,
        token_file: Path | None,
        *,
        open_without_token: bool,
        clock: Callable[[], float],
    ) -> None:
        """Raises TokenFileError if there is a token file that cannot be used."""
        self._prefix = f"/{service_name}/"
        self._token_file = token_file
        self._open_without_token = open_without_token
        self._clock = clock
        self._log_limit = LogLimit(clock())
        self.denied_by_cause: Counter[str] = Counter()
        if token_file is not None:
            read_token(token_file)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefix):
            return handler
        return self._guarded(handler)

    def _guarded(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """The same rpc behind the check; who calls is known only once the call is there."""
        codecs = (handler.request_deserializer, handler.response_serializer)

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            await self._check(context)
            return await handler.unary_unary(request, context)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            await self._check(context)
            async for response in handler.unary_stream(request, context):
                yield response

        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(answer, *codecs)
        assert handler.unary_stream is not None, "the admin service takes no streams of requests"
        return grpc.unary_stream_rpc_method_handler(stream, *codecs)

    async def _check(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        denial = self._denial(context)
        if denial is None:
            return
        self.denied_by_cause[denial.cause] += 1
        fields = self._log_limit.due(self._clock())
        if fields is not None:
            _log.warning(
                "admin_call_denied", peer=context.peer(), cause=denial.cause, reason=denial.reason, **fields
            )
        await context.abort(denial.code, denial.details)

    def _denial(self, context: grpc.aio.ServicerContext[Any, Any]) -> _Denial | None:
        """None for a caller that may go on."""
        if context.peer().startswith("unix:"):
            return None
        if self._token_file is None:
            return None if self._open_without_token else _NO_TOKEN_FILE
        try:
            token = read_token(self._token_file)
        except TokenFileError as error:
            return _TOKEN_FILE_UNUSABLE._replace(reason=str(error))
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not isinstance(given, str) or not given.startswith(_SCHEME):
            return _NO_TOKEN
        same = hmac.compare_digest(given.removeprefix(_SCHEME).encode(), token.encode())
        return None if same else _WRONG_TOKEN


def read_token(path: Path) -> str:
    """The token that a file holds, white space around it apart. Raises TokenFileError."""
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_MAX_BYTES + 1).decode("ascii").strip()
    except OSError as error:
        raise TokenFileError(f"admin_token_file {path}: {error.strerror}; must be readable") from error
    except UnicodeDecodeError as error:
        raise TokenFileError(f"admin_token_file {path}: must hold ASCII characters only") from error
    if not TOKEN_MIN_CHARACTERS <= len(token) <= TOKEN_MAX_BYTES or not token.isprintable():
        raise TokenFileError(
            f"admin_token_file {path}: {len(token)} characters; must be {TOKEN_MIN_CHARACTERS} to"
            f" {TOKEN_MAX_BYTES} printable ones on one line"
        )
    return token
