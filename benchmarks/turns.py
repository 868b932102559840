"""Turns: every server keeps its load for a whole cell, but only one runs at a time; the others are stopped.

The speed of a machine changes within seconds. Servers that take short turns in a shuffled order meet
the same changes, and none pays for a ramp: it goes on where it was stopped. Our agent stays awake, as it does
beside an idle engine: stopped for many seconds it would lose its connection and begin each turn with another.

A turn is so many tokens, not so many seconds: the n-th turn of every server generates the same stretch of the
same answers, with the same prefills between them. What a text lets a drafter guess, or how many prompts fall
into a turn, then is no difference between servers.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from benchmarks.load import TIME_DIGITS, LoadGenerator
from benchmarks.results import RequestRecord, VariantRun
from benchmarks.servers import Server, ServerSet
from benchmarks.workload import LoadKind, prompts

Player = TypeVar("Player")
AGENT: Final = "sglang_patch.agent"
# A turn settles for twice the tokens that may lie ready from before it; what counts is several times that.
SETTLED_BURSTS: Final = 2
COUNTED_BURSTS: Final = 8
# Between a time that was noted and the next one that could be.
JUST_AFTER_S: Final = 0.5 * 10.0**-TIME_DIGITS


@dataclass(frozen=True, slots=True)
class Turn:
    """When one server ran in one round; seconds since its load began, the settling before it left out."""

    round: int
    position: int
    start_s: float
    end_s: float
    foreign_cores: float


class LoadedServer:
    """A server under its own continuous load, stopped outside its turns."""

    def __init__(self, server: Server, load: LoadGenerator) -> None:
        self.server = server
        self._load = load
        self._turns: list[Turn] = []
        # The load's tokens at which the next turn begins.
        self._next_token = 0

    @asynccontextmanager
    async def awake(self) -> AsyncIterator[Self]:
        """Let the server run inside the block."""
        self.server.process.resume()
        try:
            yield self
        finally:
            self.server.process.pause(AGENT)

    async def warm_up(self, clients: int, seconds: float) -> int:
        """Begin the load; what happens here does not count. Returns the tokens it came to."""
        self._load.resize(clients)
        await self._load.run_for(seconds)
        return self._load.tokens_total

    async def catch_up(self, tokens: int) -> None:
        """Go on to where the load has come to so many tokens: the first turn begins there."""
        self._next_token = tokens
        await self._load.run_to(tokens)

    async def take_turn(self, servers: ServerSet, number: int, position: int, work: Work) -> None:
        """Run for one counted turn, from chunk to chunk."""
        servers.require_alive()
        first_token = self._next_token + work.settle_tokens
        self._next_token = first_token + work.tokens
        start_s = await self._load.run_to(first_token) + JUST_AFTER_S
        cpu = servers.read_cpu()
        end_s = await self._load.run_to(self._next_token) + JUST_AFTER_S
        foreign = round(cpu.foreign_cores(servers.read_cpu()), 3)
        self._turns.append(Turn(number, position, start_s, end_s, foreign))

    def runs(self, group: int) -> list[VariantRun]:
        """One run for every turn taken."""
        return [
            VariantRun(
                variant=self.server.variant.label,
                group=group,
                round=turn.round,
                position=turn.position,
                window_start_s=turn.start_s,
                window_end_s=turn.end_s,
                foreign_cores=turn.foreign_cores,
                requests=cut(self._load.records, turn.start_s, turn.end_s),
            )
            for turn in self._turns
        ]


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a turn that count, and those before them that do not, of the median server."""

    seconds: float
    settle_s: float

    def work(self, tokens_per_s: Sequence[float], burst_tokens: int) -> Work:
        """What all servers do in a turn.

        tokens_per_s: the speed of each. burst_tokens: what a server may have made before it was stopped and
        delivers all at once when it goes on, a step of every client; on a slow machine that is soon
        as much as it makes in the seconds asked for.
        """
        speed = statistics.median(tokens_per_s)
        return Work(
            tokens=max(round(self.seconds * speed), COUNTED_BURSTS * burst_tokens),
            settle_tokens=max(round(self.settle_s * speed), SETTLED_BURSTS * burst_tokens),
        )


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of a turn that count, and those before them that do not."""

    tokens: int
    settle_tokens: int


@asynccontextmanager
async def loaded(
    servers: Sequence[Server], kind: LoadKind, seed: str, vocabulary_size: int
) -> AsyncIterator[list[LoadedServer]]:
    """Servers ready to take turns, all stopped; they run again when the block is left."""
    async with AsyncExitStack() as stack:
        players = []
        for server in servers:
            load = LoadGenerator(server.base_url, prompts(kind, seed, vocabulary_size))
            players.append(LoadedServer(server, await stack.enter_async_context(load)))
        try:
            for server in servers:
                server.process.pause(AGENT)
            yield players
        finally:
            for server in servers:
                server.process.resume()
            # What is still under way is given up by the clients; the servers must be awake to notice.
            await asyncio.sleep(0)


def shuffled(players: Sequence[Player], seed: str) -> list[tuple[int, Player]]:
    """The players with their places in an order that `seed` fixes."""
    order = list(players)
    random.Random(seed).shuffle(order)
    return list(enumerate(order))


def cut(records: Sequence[RequestRecord], start_s: float, end_s: float) -> list[RequestRecord]:
    """The part of every request whose chunks arrived from `start_s` up to `end_s`.

    A request counts as complete, with its digest and the server's counts, where its last chunk arrived.
    """
    parts = []
    for record in records:
        inside = [start_s <= at_s < end_s for at_s in record.chunk_s]
        if not any(inside):
            continue
        ends_here = record.complete and inside[-1]
        parts.append(
            RequestRecord(
                prompt_index=record.prompt_index,
                max_tokens=record.max_tokens,
                client=record.client,
                sent_s=record.sent_s,
                starts_before=not inside[0],
                chunk_s=list(itertools.compress(record.chunk_s, inside)),
                chunk_tokens=list(itertools.compress(record.chunk_tokens, inside)),
                complete=ends_here,
                output_digest=record.output_digest if ends_here else None,
                verify_steps=record.verify_steps if ends_here else None,
                accepted_drafts=record.accepted_drafts if ends_here else None,
            )
        )
    return parts
