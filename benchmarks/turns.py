"""Turns: every server keeps its load for a whole cell, but only one runs at a time; the others are stopped.

The speed of a machine changes within seconds. Servers that take short turns in a shuffled order meet
the same changes, and none pays for a ramp: it goes on where it was stopped. Our agent stays awake, as it does
beside an idle engine: stopped for many seconds it would lose its connection and begin each turn with another.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from benchmarks.load import LoadGenerator
from benchmarks.results import RequestRecord, VariantRun
from benchmarks.servers import Server, ServerSet
from benchmarks.workload import LoadKind, prompts

Player = TypeVar("Player")
AGENT: Final = "sglang_patch.agent"


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

    @asynccontextmanager
    async def awake(self) -> AsyncIterator[Self]:
        """Let the server run inside the block."""
        self.server.process.resume()
        try:
            yield self
        finally:
            self.server.process.pause(AGENT)

    async def warm_up(self, clients: int, seconds: float) -> None:
        """Begin the load; what happens here does not count."""
        self._load.resize(clients)
        await self._load.run_for(seconds)

    async def take_turn(self, servers: ServerSet, number: int, position: int, plan: Pace) -> None:
        """Run for one counted turn."""
        servers.require_alive()
        await self._load.run_for(plan.settle_s)
        cpu, start_s = servers.read_cpu(), self._load.now_s
        await self._load.run_for(plan.seconds)
        end_s = self._load.now_s
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
    """Seconds of a turn that count, and those before them that do not."""

    seconds: float
    settle_s: float


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
