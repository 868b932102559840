"""Runs a benchmark: one set of servers after another; in each its cells, round by round, interleaved."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.admin import Admin, control_delta
from benchmarks.load import measure_seconds
from benchmarks.models import Model
from benchmarks.report import cell_name
from benchmarks.results import BenchResult, Cell
from benchmarks.servers import Server, ServerSet, Setup, control_session, reset_server, server_capacity
from benchmarks.stats import Window
from benchmarks.turns import LoadedServer, Pace, Work, loaded, play_round, shuffled
from benchmarks.variants import Variant, VariantKind, plan_groups
from benchmarks.workload import LoadKind, prompts
from turbospec.v1.admin_pb2 import EngineStatus

# Every server reads a clock that stands still while it is stopped.
LAUNCHER = "benchmarks.launch"
# Step records leave the engine in batches; the last of a turn may still be on their way.
TELEMETRY_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how often and how many; times in seconds."""

    # Every server is started so many times; each time it has so many turns in every cell.
    starts: int
    rounds: int
    pace: Pace
    # Of load with other prompts, before a cell, for those that learn from what they serve.
    learn_s: float
    warmup_s: float
    seed: int
    start_parallel: int


@dataclass(frozen=True, slots=True)
class CellSet:
    """The cells that the same servers serve."""

    model: Model
    algorithm: str
    variants: tuple[Variant, ...]
    lengths: tuple[int, ...]
    loads: tuple[LoadKind, ...]
    clients: tuple[int, ...]


class Runner:
    """Owns the result while it grows; it is saved after every round."""

    def __init__(
        self,
        *,
        plan: Plan,
        result: BenchResult,
        output: Path,
        directory: Path,
        device: str,
        flags: tuple[str, ...],
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._result = result
        self._output = output
        self._directory = directory
        self._device = device
        self._flags = flags
        self._say = say

    async def run(self, cell_sets: Sequence[CellSet]) -> None:
        """Run everything.

        Raises:
            ProcessFailed: a server did not start or died.
            LoadError: a server refused a request.
        """
        for cells in cell_sets:
            combinations = itertools.product(cells.loads, cells.clients)
            mine = [
                Cell(model=cells.model.name, algorithm=cells.algorithm, load=load, clients=clients)
                for load, clients in combinations
            ]
            groups = plan_groups(list(cells.variants), server_capacity())
            if len(groups) > 1:
                self._say(f"not all servers fit into memory: {len(groups)} groups of up to {len(groups[0])}")
            for number, group in enumerate(groups * self._plan.starts):
                await self._run_group(cells, mine, number, group)

    async def _run_group(self, cells: CellSet, mine: list[Cell], number: int, group: list[Variant]) -> None:
        name = f"{cells.model.name.replace(':', '-')}-{cells.algorithm.lower()}-{number}"
        setup = Setup(
            model=cells.model,
            algorithm=cells.algorithm,
            lengths=cells.lengths,
            device=self._device,
            directory=self._directory / name,
            extra_flags=self._flags,
            launcher=LAUNCHER,
        )
        # What a process is dealt may depend on who started before it: nobody is always the last.
        order = shuffled(group, f"{self._plan.seed}/start/{number}")
        self._say(f"{cells.model.name} {cells.algorithm}: starting {', '.join(v.label for v in order)}")
        async with (
            ServerSet(setup, order, self._plan.start_parallel) as servers,
            control_session() as session,
        ):
            if self._device == "cpu":
                servers.share_core()
            for cell in mine:
                if not cell.runs:
                    self._result.cells.append(cell)
                self._say(f"{cell_name(cell)}: warming up")
                for server in servers.servers:
                    if server.variant.learns:
                        await self._learn(server, cell, cells.model.vocabulary_size)
                    await reset_server(session, server.base_url)
                await self._run_cell(servers, cell, number, cells.model.vocabulary_size, cells.lengths[-1])

    async def _learn(self, server: Server, cell: Cell, vocabulary_size: int) -> None:
        source = prompts(cell.load, f"{self._plan.seed}/{cell.load}/{cell.clients}/learn", vocabulary_size)
        await measure_seconds(server.base_url, source, cell.clients, 0.0, self._plan.learn_s)

    async def _run_cell(
        self, servers: ServerSet, cell: Cell, group: int, vocabulary_size: int, longest: int
    ) -> None:
        seed = f"{self._plan.seed}/{cell.load}/{cell.clients}"
        before = list(cell.runs)
        async with loaded(servers, cell.load, seed, vocabulary_size) as players:
            work = await self._warm_up(players, cell.clients, longest)
            counted = await self._control(servers, players)
            for number in range(self._plan.rounds):
                await play_round(players, servers, number, work, f"{seed}/{group}/{number}")
                cell.runs = before + [run for player in players for run in player.runs(group)]
                await asyncio.to_thread(self._result.save, self._output)
                done = f"round {number + 1}/{self._plan.rounds}"
                self._say(f"{cell_name(cell)}: {done}, {_speeds(cell, group, number)}")
            await self._count_control(servers, players, cell, counted)
        await asyncio.to_thread(self._result.save, self._output)

    async def _warm_up(self, players: Sequence[LoadedServer], clients: int, longest: int) -> Work:
        tokens = []
        for player in players:
            with player.awake():
                tokens.append(await player.warm_up(clients, self._plan.warmup_s))
        burst_tokens = clients * (longest + 1)
        for player in players:
            with player.awake():
                # What was under way as it was stopped has come too by then.
                await player.catch_up(max(tokens) + burst_tokens)
        speeds = [count / self._plan.warmup_s for count in tokens]
        return self._plan.pace.work(speeds, burst_tokens)

    async def _control(self, servers: ServerSet, players: Sequence[LoadedServer]) -> dict[str, EngineStatus]:
        """What the service has counted so far, by variant."""
        ours = [player.server for player in players if player.server.variant.kind is VariantKind.TURBOSPEC]
        if not ours or not servers.control_address:
            return {}
        async with Admin(servers.control_address) as admin:
            return {server.variant.label: await admin.engine(server.engine_id) for server in ours}

    async def _count_control(
        self, servers: ServerSet, players: Sequence[LoadedServer], cell: Cell, before: dict[str, EngineStatus]
    ) -> None:
        for player in players:
            label = player.server.variant.label
            if label not in before:
                continue
            with player.awake():
                await asyncio.sleep(TELEMETRY_SETTLE_S)
            now = (await self._control(servers, [player]))[label]
            # The newest: runs of earlier starts carry what was counted in those.
            mine = [run for run in cell.runs if run.variant == label]
            last = max(mine, key=lambda run: (run.group, run.round))
            last.control = control_delta(before[label], now)


def _speeds(cell: Cell, group: int, number: int) -> str:
    """Tokens a second of every variant in one round."""
    mine = (run for run in cell.runs if (run.group, run.round) == (group, number))
    runs = sorted(mine, key=lambda run: run.variant)
    return "tok/s: " + ", ".join(f"{run.variant} {Window.of(run).tokens_per_s:.1f}" for run in runs)
