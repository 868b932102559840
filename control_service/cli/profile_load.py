"""So many answers at once from an OpenAI endpoint, for as long as they are wanted."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import httpx

from control_service.cli.errors import CliError, ExitCode

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 60.0
ANSWER_TOKENS: Final = 256
_SUBJECTS: Final = (
    "how a lighthouse works", "why bread rises", "the life of a river", "how a bicycle stays upright",
    "what makes a good map", "how glass is made", "the tides", "how bees find their way",
)  # fmt: skip


def served_model(url: str) -> str:
    """The name of the first model of an endpoint. Raises `CliError` if there is none."""
    try:
        answer = httpx.get(f"{url}/v1/models", timeout=CONNECT_TIMEOUT_S).raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        message = f"{url}/v1/models does not name a model: {error!r}"
        raise CliError(message, ExitCode.UNREACHABLE) from error


class Load:
    """`clients` requests at a time, each followed by the next; a context manager.

    Works in a thread of its own. What makes it fail is in `failure`.
    """

    def __init__(self, url: str, model: str, clients: int) -> None:
        self.failure: CliError | None = None
        self._url = f"{url}/v1/completions"
        self._model = model
        self._clients = clients
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="profile-load", daemon=True)
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        self._task = self._loop.create_task(self._send_all())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        with suppress(RuntimeError):  # it has failed, and its loop is closed
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        assert self._task is not None
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except (httpx.HTTPError, CliError) as error:
            message = f"{self._url} failed: {error!r}" if isinstance(error, httpx.HTTPError) else str(error)
            self.failure = CliError(message, ExitCode.CHILD_FAILED)
        finally:
            self._loop.close()

    async def _send_all(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        async with httpx.AsyncClient(limits=limits, timeout=timeout) as http:
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(self._clients):
                        group.create_task(self._send_on(http, number))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors

    async def _send_on(self, http: httpx.AsyncClient, number: int) -> None:
        # First answers of different lengths: clients must not stay in step, prefilling all at once.
        tokens = ANSWER_TOKENS * (number + 1) // self._clients
        while True:
            await self._send(http, max(tokens, 1))
            tokens = ANSWER_TOKENS

    async def _send(self, http: httpx.AsyncClient, tokens: int) -> None:
        number = next(self._numbers)
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": f"Note {number}. A short essay on {_SUBJECTS[number % len(_SUBJECTS)]}.\n\n",
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            # SGLang's own: an answer must not end before its time.
            "ignore_eos": True,
        }
        async with http.stream("POST", self._url, json=body) as response:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")[:300]
                raise CliError(f"{self._url} answered {response.status_code}: {text}", ExitCode.CHILD_FAILED)
            async for _ in response.aiter_raw():
                pass
