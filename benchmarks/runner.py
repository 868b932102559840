"""Runs a benchmark: one set of servers after another; in each its cells, round by round, interleaved."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.admin import Admin, control_delta
from benchmarks.load import Measured, measure_requests, measure_seconds
from benchmarks.models import Model
from benchmarks.report import cell_name
from benchmarks.results import BenchResult, Cell, ControlDelta, VariantRun
from benchmarks.servers import Server, ServerSet, Setup, control_session, reset_server, server_capacity
from benchmarks.stats import goodput_tokens_per_s
from benchmarks.variants import Variant, VariantKind, plan_groups
from benchmarks.workload import LoadKind, prompts

# Step records leave the engine in batches; the last of a run may still be on their way.
TELEMETRY_SETTLE_S = 0.5
WARMUP_ROUND = "warm-up"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how often and how many; times in seconds."""

    rounds: int
    seconds: float
    # Requests a run instead of seconds; None: seconds decide.
    requests: int | None
    ramp_s: float
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
            for number, group in enumerate(groups):
                await self._run_group(cells, mine, number, group)

    async def _run_group(self, cells: CellSet, mine: list[Cell], number: int, group: list[Variant]) -> None:
        name = f"{cells.model.name.replace(':', '-')}-{cells.algorithm.lower()}-{number}"
        setup = Setup(
            cells.model, cells.algorithm, cells.lengths, self._device, self._directory / name, self._flags
        )
        self._say(f"{cells.model.name} {cells.algorithm}: starting {', '.join(v.label for v in group)}")
        async with (
            ServerSet(setup, group, self._plan.start_parallel) as servers,
            control_session() as session,
        ):
            for cell in mine:
                if not cell.runs:
                    self._result.cells.append(cell)
                bench = CellBench(self._plan, servers, session, cell, cells.model.vocabulary_size)
                await self._run_cell(bench, cell, number)

    async def _run_cell(self, bench: CellBench, cell: Cell, group: int) -> None:
        self._say(f"{cell_name(cell)}: warming up")
        await bench.warm_up()
        for number in range(self._plan.rounds):
            runs = await bench.round(group, number)
            cell.runs += runs
            await asyncio.to_thread(self._result.save, self._output)
            speeds = ", ".join(
                f"{run.variant} {goodput_tokens_per_s(run):.1f}"
                for run in sorted(runs, key=lambda run: run.variant)
            )
            self._say(f"{cell_name(cell)}: round {number + 1}/{self._plan.rounds}, tok/s: {speeds}")


class CellBench:
    """Puts the same load on each server of one cell in turn."""

    def __init__(
        self, plan: Plan, servers: ServerSet, session: aiohttp.ClientSession, cell: Cell, vocabulary_size: int
    ) -> None:
        self._plan = plan
        self._servers = servers
        self._session = session
        self._cell = cell
        self._vocabulary_size = vocabulary_size

    async def warm_up(self) -> None:
        """Load every server once, not counted: code paths, caches, and what the controller learns first."""
        if self._plan.warmup_s > 0:
            for server in self._servers.servers:
                await self._load(server, WARMUP_ROUND, 0.0, self._plan.warmup_s)

    async def round(self, group: int, number: int) -> list[VariantRun]:
        """Every variant once, in an order of the round's own."""
        order = list(self._servers.servers)
        random.Random(f"{self._plan.seed}/{self._cell.clients}/{self._cell.load}/{group}/{number}").shuffle(
            order
        )
        return [await self._run(server, group, number, position) for position, server in enumerate(order)]

    async def _run(self, server: Server, group: int, number: int, position: int) -> VariantRun:
        ours = server.variant.kind is VariantKind.TURBOSPEC
        cpu = self._servers.read_cpu()
        control: ControlDelta | None = None
        if ours and self._servers.control_address:
            async with Admin(self._servers.control_address) as admin:
                before = await admin.engine(server.engine_id)
                measured = await self._load(server, str(number), self._plan.ramp_s, self._plan.seconds)
                await asyncio.sleep(TELEMETRY_SETTLE_S)
                control = control_delta(before, await admin.engine(server.engine_id))
        else:
            measured = await self._load(server, str(number), self._plan.ramp_s, self._plan.seconds)
        return VariantRun(
            variant=server.variant.label,
            group=group,
            round=number,
            position=position,
            window_start_s=measured.window_start_s,
            window_end_s=measured.window_end_s,
            foreign_cores=round(cpu.foreign_cores(self._servers.read_cpu()), 3),
            requests=measured.records,
            control=control,
        )

    async def _load(self, server: Server, round_name: str, ramp_s: float, seconds: float) -> Measured:
        """Start from an empty cache, and leave nothing running."""
        self._servers.require_alive()
        await reset_server(self._session, server.base_url)
        source = prompts(self._cell.load, f"{self._plan.seed}/{round_name}", self._vocabulary_size)
        if self._plan.requests is not None and round_name != WARMUP_ROUND:
            finite = itertools.islice(source, self._plan.requests)
            return await measure_requests(server.base_url, finite, self._cell.clients)
        measured = await measure_seconds(server.base_url, source, self._cell.clients, ramp_s, seconds)
        await reset_server(self._session, server.base_url)
        return measured
