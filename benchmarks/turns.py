"""Turns: every server keeps its load for a whole cell, but only one runs at a time; the others are stopped.

The speed of a machine changes at every scale from hundredths of seconds to minutes. So the turns of a round
are cut into slices that take each other's place ten times a second, in a shuffled order: all servers meet the
same changes. None pays for being stopped, it goes on where it was, by a clock of its own that stood still.

A turn is so many tokens, not so many seconds: the n-th turn of every server generates the same stretch of the
same answers, with the same prefills between them. What a text lets a drafter guess, or how many prompts fall
into a turn, then is no difference between servers.

A server that plays several variants has as many slices, and a turn as many times as long; which steps are
whose is decided inside it (`benchmarks.arms`).

What belongs to ours besides SGLang, the agent and the control service, runs in its slices only, so that
nobody else pays for it. Outside of rounds both are awake, as beside an idle engine: stopped for many seconds,
they would lose their connection.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from benchmarks.arms import Switch
from benchmarks.load import TIME_DIGITS, LoadGenerator
from benchmarks.processes import Reins
from benchmarks.results import RequestRecord, VariantRun
from benchmarks.servers import AGENT, Server, ServerSet
from benchmarks.variants import VariantKind
from benchmarks.workload import LoadKind, prompts

Player = TypeVar("Player")
# A turn is several times the tokens that may lie ready from before it.
TURN_BURSTS: Final = 8
# Between a time that was noted and the next one that could be.
JUST_AFTER_S: Final = 0.5 * 10.0**-TIME_DIGITS


@dataclass(frozen=True, slots=True)
class Turn:
    """What one server did in one round; seconds by its clock since its load began."""

    round: int
    start_s: float
    end_s: float
    foreign_cores: float


@dataclass(frozen=True, slots=True)
class Share:
    """How many variants a server plays, and what says that one of them has its turn which is not ours."""

    variants: int = 1
    switch: Switch | None = None

    @property
    def fixed(self) -> bool:
        """Whether what serves ours besides has to stay stopped."""
        return self.switch is not None and self.switch.fixed


ALONE: Final = Share()


class LoadedServer:
    """A server under its own continuous load, stopped outside its slices.

    engine: its processes. aside: those that serve it beside the engine.
    """

    def __init__(
        self,
        server: Server,
        load: LoadGenerator,
        engine: Reins,
        aside: Sequence[Reins],
        share: Share = ALONE,
    ) -> None:
        self.server = server
        self.share = share
        self._load = load
        self._clock = server.clock
        self._engine = engine
        self._aside = aside
        self._turns: list[Turn] = []
        # Where the next turn begins: the load's tokens, and when they had come.
        self._next_token = 0
        self._next_s = 0.0

    @contextmanager
    def awake(self) -> Iterator[Self]:
        """Let the server run inside the block."""
        self._clock.go()
        self._engine.go()
        try:
            yield self
        finally:
            self._engine.stop()
            self._clock.stop()

    async def warm_up(self, clients: int, seconds: float) -> int:
        """Begin the load; what happens here does not count. Returns the tokens it came to."""
        self._load.resize(clients)
        await self._load.run_for(seconds)
        return self._load.tokens_total

    async def catch_up(self, tokens: int) -> None:
        """Go on to where the load has come to so many tokens: the first turn begins there."""
        self._load.aim(tokens)
        end_s = await self._load.run_to_goal()
        assert end_s is not None
        self._next_token, self._next_s = tokens, end_s + JUST_AFTER_S

    def begin_turn(self, tokens: int) -> None:
        """A round begins."""
        self._next_token += self.share.variants * tokens
        self._load.aim(self._next_token)
        for reins in self._aside:
            reins.stop()

    async def play(self, seconds: float) -> float | None:
        """Run for a slice of the turn. Returns when the turn ended; None if it goes on."""
        if not self.share.fixed:
            self.wake_aside()
        with self.awake():
            end_s = await self._load.run_to_goal(seconds)
        # The turn's end finds them as the beginning did: awake.
        if end_s is not None:
            self.wake_aside()
        else:
            for reins in self._aside:
                reins.stop()
        return end_s

    def wake_aside(self) -> None:
        """Let what serves it beside the engine go on."""
        for reins in self._aside:
            reins.go()

    def end_turn(self, number: int, end_s: float, foreign_cores: float) -> None:
        """The round is over for everybody."""
        start_s, self._next_s = self._next_s, end_s + JUST_AFTER_S
        self._turns.append(Turn(number, start_s, self._next_s, foreign_cores))

    def runs(self, group: int) -> list[VariantRun]:
        """One run for every turn taken."""
        return [
            VariantRun(
                variant=self.server.variant.label,
                group=group,
                round=turn.round,
                window_start_s=turn.start_s,
                window_end_s=turn.end_s,
                foreign_cores=turn.foreign_cores,
                requests=cut(self._load.records, turn.start_s, turn.end_s),
            )
            for turn in self._turns
        ]


async def play_round(
    players: Sequence[LoadedServer], servers: ServerSet, number: int, work: Work, seed: str
) -> None:
    """One turn of every server, slice by slice."""
    cpu = servers.read_cpu()
    for player in players:
        player.begin_turn(work.tokens)
    ends_s: dict[LoadedServer, float] = {}
    for sweep in itertools.count():
        servers.require_alive()
        left = [player for player in players if player not in ends_s]
        if not left:
            break
        for player in shuffled([p for p in left for _ in range(p.share.variants)], f"{seed}/{sweep}"):
            if player not in ends_s and (end_s := await player.play(work.slice_s)) is not None:
                ends_s[player] = end_s
    foreign_cores = round(cpu.foreign_cores(servers.read_cpu()), 3)
    for player in players:
        player.end_turn(number, ends_s[player], foreign_cores)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a turn of the median server, and of a slice of it."""

    seconds: float
    slice_s: float

    def work(self, tokens_per_s: Sequence[float], burst_tokens: int) -> Work:
        """What all servers do in a turn, for each variant that they play.

        tokens_per_s: the speed of each. burst_tokens: what a step may bring all at once, so that a turn
        begins or ends that much too early or late; on a slow machine that is soon as much as comes in the
        seconds asked for.
        """
        speed = statistics.median(tokens_per_s)
        return Work(max(round(self.seconds * speed), TURN_BURSTS * burst_tokens), self.slice_s)


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of a turn, and seconds of a slice of it."""

    tokens: int
    slice_s: float


@asynccontextmanager
async def loaded(
    servers: ServerSet,
    kind: LoadKind,
    seed: str,
    vocabulary_size: int,
    shares: Mapping[str, Share],
) -> AsyncIterator[list[LoadedServer]]:
    """Servers ready to take turns, all stopped; they run again when the block is left.

    shares: by the label of the server; one that is not there plays itself alone.
    """
    async with AsyncExitStack() as stack:
        players = []
        for server in servers.servers:
            source = prompts(kind, seed, vocabulary_size)
            load = await stack.enter_async_context(LoadGenerator(server.base_url, source, server.clock.now_s))
            players.append((server, load))
        # Left first, so that the servers are awake to notice which answers their clients give up.
        with ExitStack() as held:
            yield [
                _hold(servers, server, load, held, shares.get(server.variant.label, ALONE))
                for server, load in players
            ]


def _hold(
    servers: ServerSet,
    server: Server,
    load: LoadGenerator,
    held: ExitStack,
    share: Share,
) -> LoadedServer:
    """The server, stopped until `held` is closed."""
    ours = server.variant.kind is VariantKind.TURBOSPEC
    engine = held.enter_context(closing(server.process.reins(spare=AGENT)))
    aside = [server.process.reins(only=AGENT), servers.service.reins()] if ours and servers.service else []
    for reins in aside:
        held.enter_context(closing(reins))
    held.callback(server.clock.go)
    engine.stop()
    server.clock.stop()
    return LoadedServer(server, load, engine, aside, share)


def shuffled(players: Sequence[Player], seed: str) -> list[Player]:
    """The players in an order that `seed` fixes."""
    return random.Random(seed).sample(players, len(players))


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
