"""The clients: a closed loop in which each sends its next request as soon as the last has finished.

Tokens are counted by the server: with /generate from `meta_info`, with the OpenAI endpoint from the usage
that comes with every chunk. A chunk may carry several tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from benchmarks.results import RequestRecord
from benchmarks.workload import Prompt

CONNECT_TIMEOUT_S = 10
# A server is stopped, with a request under way, while all the others warm up.
SILENCE_TIMEOUT_S = 900
TIME_DIGITS = 5


class LoadError(RuntimeError):
    """A server refused or broke off a request; the run is worthless."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one server-sent event says. `tokens` is the running total; None where the event says nothing."""

    tokens: int | None
    output: bytes
    finished: bool
    verify_steps: int | None
    accepted_drafts: int | None


def parse_generate_chunk(event: dict[str, Any]) -> Chunk:
    """An event of SGLang's /generate, launched with --incremental-streaming-output."""
    meta = event["meta_info"]
    return Chunk(
        tokens=meta["completion_tokens"],
        output=",".join(map(str, event["output_ids"])).encode() + b",",
        finished=meta["finish_reason"] is not None,
        verify_steps=meta.get("spec_verify_ct"),
        accepted_drafts=meta.get("spec_num_correct_drafts"),
    )


def parse_chat_chunk(event: dict[str, Any]) -> Chunk:
    """An event of /v1/chat/completions with continuous usage and SGLang's speculation details."""
    usage = event.get("usage") or {}
    spec = (event.get("sglext") or {}).get("spec_tokens_details") or {}
    choice = event["choices"][0] if event["choices"] else {}
    return Chunk(
        tokens=usage.get("completion_tokens"),
        output=(choice.get("delta", {}).get("content") or "").encode(),
        finished=choice.get("finish_reason") is not None,
        verify_steps=spec.get("spec_verify_ct"),
        accepted_drafts=spec.get("spec_num_correct_drafts"),
    )


class LoadGenerator:
    """Closed-loop clients against one server; their number and their prompts may change while they run.

    Clients that start together have their first answers cut to different lengths, so that they do not stay in
    step: with a fixed output length they would otherwise all prefill at once for ever.
    """

    def __init__(
        self, base_url: str, prompts: Iterator[Prompt], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._base_url = base_url
        self._clock = clock
        self.prompts = prompts
        self.records: list[RequestRecord] = []
        self.tokens_total = 0
        self._target = 0
        self._clients: dict[int, asyncio.Task[None]] = {}
        # Sent away in the middle of an answer; whatever they may have failed with is of no interest.
        self._leavers: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._began_s = 0.0
        # Tokens that `run_to_goal` waits for, and the arrival of the chunk that reached them.
        self._goal_tokens = 0
        self._reached: asyncio.Future[float] | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
        )
        # No limit: clients must not queue for a connection. A new one for each request: a server that was
        # stopped for a while closes the idle ones it finds, with a request already on its way.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        self._began_s = self._clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cancel()
        if self._session is not None:
            await self._session.close()

    @property
    def now_s(self) -> float:
        """Seconds since the load began, by its clock."""
        return self._clock() - self._began_s

    @property
    def clients(self) -> int:
        """Clients that are sending, those included that stop after the answer they are reading."""
        return sum(not task.done() for task in self._clients.values())

    def resize(self, clients: int, *, at_once: bool = False) -> None:
        """Have so many clients: more start now; too many stop after their answer, or in the middle of it."""
        self._target = clients
        for number in [number for number in self._clients if at_once and number >= clients]:
            leaver = self._clients.pop(number)
            leaver.cancel()
            self._leavers.append(leaver)
        for number in range(clients):
            task = self._clients.get(number)
            if task is None or task.done():
                self._clients[number] = asyncio.create_task(self._client(number, clients))

    async def run_for(self, seconds: float) -> None:
        """Let the clients work; raises LoadError as soon as one of them fails."""
        await self._run(asyncio.get_running_loop().create_future(), seconds)

    def aim(self, tokens_total: int) -> None:
        """Have the next `run_to_goal` go on to the chunk that brings the tokens to so many.

        Where there are as many already, that is the next chunk.
        """
        self._goal_tokens = tokens_total
        self._reached = asyncio.get_running_loop().create_future()

    async def run_to_goal(self, seconds: float | None = None) -> float | None:
        """Let the clients work until a chunk reaches the goal; returns when that arrived.

        None if so many seconds were not enough; another call goes on. Raises LoadError as `run_for` does.
        """
        assert self._reached is not None, "called before `aim`"
        await self._run(self._reached, seconds)
        return self._reached.result() if self._reached.done() else None

    async def _run(self, end: asyncio.Future[float], seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = None if seconds is None else loop.time() + seconds
        left_s = seconds
        while not end.done() and (left_s is None or left_s > 0):
            either: list[asyncio.Future[Any]] = [end, *self._running()]
            await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            self._raise_failures()
            left_s = None if deadline_s is None else deadline_s - loop.time()

    def _running(self) -> list[asyncio.Task[None]]:
        running = [task for task in self._clients.values() if not task.done()]
        if not running:
            self._raise_failures()
            raise LoadError("no client is left: the prompts have run out")
        return running

    async def _cancel(self) -> None:
        for task in self._clients.values():
            task.cancel()
        await asyncio.gather(*self._clients.values(), *self._leavers, return_exceptions=True)

    def _raise_failures(self) -> None:
        for task in self._clients.values():
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _client(self, number: int, started_with: int) -> None:
        # Clients take their first prompt in order of number, before any of them waits.
        first = True
        while number < self._target:
            prompt = next(self.prompts, None)
            if prompt is None:
                return
            if first:
                prompt = prompt.cut_to(max(1, prompt.max_tokens * (number + 1) // started_with))
                first = False
            await self._send(number, prompt)

    async def _send(self, number: int, prompt: Prompt) -> None:
        record = RequestRecord(
            prompt_index=prompt.index,
            max_tokens=prompt.max_tokens,
            client=number,
            sent_s=round(self.now_s, TIME_DIGITS),
        )
        self.records.append(record)
        parse = parse_generate_chunk if prompt.path == "/generate" else parse_chat_chunk
        digest = hashlib.sha256()
        try:
            async with aclosing(self._events(prompt)) as events:
                async for event in events:
                    chunk = parse(event)
                    digest.update(chunk.output)
                    self._note(record, chunk)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise LoadError(f"request {prompt.index} to {self._base_url}{prompt.path}: {error!r}") from error
        if not record.complete:
            raise LoadError(f"request {prompt.index} to {self._base_url}{prompt.path}: the answer broke off")
        record.output_digest = digest.hexdigest()[:16]

    def _note(self, record: RequestRecord, chunk: Chunk) -> None:
        fresh = 0 if chunk.tokens is None else chunk.tokens - sum(record.chunk_tokens)
        if fresh > 0:
            record.chunk_s.append(round(self.now_s, TIME_DIGITS))
            record.chunk_tokens.append(fresh)
            self.tokens_total += fresh
            reached = self._reached
            if reached and not reached.done() and self.tokens_total >= self._goal_tokens:
                reached.set_result(record.chunk_s[-1])
        if chunk.verify_steps is not None:
            record.verify_steps = chunk.verify_steps
            record.accepted_drafts = chunk.accepted_drafts
        record.complete = record.complete or chunk.finished

    async def _events(self, prompt: Prompt) -> AsyncGenerator[dict[str, Any], None]:
        assert self._session is not None, "used outside `async with`"
        async with self._session.post(self._base_url + prompt.path, json=prompt.body) as response:
            if response.status != 200:
                text = (await response.text())[:500]
                raise LoadError(f"{self._base_url}{prompt.path} answered {response.status}: {text}")
            async for line in response.content:
                if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
                    event = json.loads(line[5:])
                    if "error" in event:
                        raise LoadError(f"{self._base_url}{prompt.path} sent an error: {event['error']}")
                    yield event


@dataclass(frozen=True, slots=True)
class Measured:
    """The records of one run, and the part of it that counts: seconds since the load began."""

    records: list[RequestRecord]
    window_start_s: float
    window_end_s: float


async def measure_seconds(
    base_url: str, prompts: Iterator[Prompt], clients: int, ramp_s: float, seconds: float
) -> Measured:
    """Load for `ramp_s`, which does not count, then for `seconds`; answers still coming are dropped."""
    async with LoadGenerator(base_url, prompts) as generator:
        generator.resize(clients)
        await generator.run_for(ramp_s + seconds)
    return Measured(generator.records, ramp_s, ramp_s + seconds)
