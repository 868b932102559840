"""Runs a benchmark: one set of servers after another; in each its cells, round by round, interleaved."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import arms as arms_module
from benchmarks.admin import Admin, control_delta
from benchmarks.arms import ArmPlan, Switch
from benchmarks.models import Model
from benchmarks.report import cell_name
from benchmarks.results import BenchResult, Cell, Slice
from benchmarks.servers import (
    READY_FILE,
    ServerSet,
    Setup,
    control_session,
    reset_server,
    server_capacity,
)
from benchmarks.stats import Window, cell_stats, clearly_behind
from benchmarks.turns import LoadedServer, Pace, Share, Work, loaded, play_round, shuffled
from benchmarks.variants import Variant, VariantKind, hosts, plan_groups
from benchmarks.workload import LoadKind
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
    # Of load on every server before a cell, which goes on with the same prompts. Ours and SGLang's adaptive
    # learn from it, and SGLang's n-gram corpus: its drafts are worth what it has been served, so nothing is
    # emptied in between.
    learn_s: float
    seed: int
    start_parallel: int
    # Decode steps of an arm that count until the next has its turn; 0: every variant has a server of its own.
    arm_steps: int


@dataclass(frozen=True, slots=True)
class CellSet:
    """The cells that the same servers serve."""

    model: Model
    algorithm: str
    variants: tuple[Variant, ...]
    lengths: tuple[int, ...]
    loads: tuple[LoadKind, ...]
    clients: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell on servers that have been started: the number of the start, and the cell's among theirs.

    arms: what each server plays, by the variant it was launched for; none if only its clients measure.
    """

    cell: Cell
    start: int
    number: int
    arms: Mapping[str, ArmPlan]
    switches: Mapping[str, Switch]

    @property
    def shares(self) -> dict[str, Share]:
        """What each server plays, for its turns."""
        return {label: Share(len(plan.variants), self.switches[label]) for label, plan in self.arms.items()}

    def measure(self, *, on: bool) -> None:
        """What the schedulers do counts, or no longer."""
        self._leave_out()
        for switch in self.switches.values():
            switch.cell = self.number if on else 0

    def drop_behind(self) -> None:
        """Arms that are clearly behind by now have no turns any more: the others have more."""
        if self.arms:
            self.cell.behind += clearly_behind(cell_stats(self.cell))
            self._leave_out()

    def _leave_out(self) -> None:
        for label, plan in self.arms.items():
            self.switches[label].out = plan.bits(self.cell.behind)

    def collect(self, earlier: Sequence[Slice]) -> None:
        """Take what the schedulers have logged by now, after what earlier starts brought."""
        mine = [slice_ for plan in self.arms.values() for slice_ in plan.read(self.number)]
        self.cell.slices = [*earlier, *mine]


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
            launched = hosts(cells.variants, arms=self._plan.arm_steps > 0)
            groups = plan_groups(list(launched), server_capacity())
            if len(groups) > 1:
                self._say(f"not all servers fit into memory: {len(groups)} groups of up to {len(groups[0])}")
            for number, group in enumerate(groups * self._plan.starts):
                await self._run_group(cells, mine, number, {variant: launched[variant] for variant in group})

    async def _run_group(
        self, cells: CellSet, mine: list[Cell], number: int, group: dict[Variant, tuple[Variant, ...]]
    ) -> None:
        name = f"{cells.model.name.replace(':', '-')}-{cells.algorithm.lower()}-{number}"
        directory = (self._directory / name).absolute()
        arms = self._arms(directory, number, group)
        setup = Setup(
            model=cells.model,
            algorithm=cells.algorithm,
            lengths=cells.lengths,
            device=self._device,
            directory=directory,
            extra_flags=self._flags,
            launcher=LAUNCHER,
            variant_environment={
                label: {arms_module.VARIABLE: plan.model_dump_json()} for label, plan in arms.items()
            },
        )
        # What a process is dealt may depend on who started before it: nobody is always the last.
        order = shuffled(list(group), f"{self._plan.seed}/start/{number}")
        self._say(f"{cells.model.name} {cells.algorithm}: starting {', '.join(v.label for v in order)}")
        switches = {label: Switch(plan.switch) for label, plan in arms.items()}
        async with (
            ServerSet(setup, order, self._plan.start_parallel) as servers,
            control_session() as session,
        ):
            if self._device == "cpu":
                servers.share_core()
            for index, cell in enumerate(mine, start=1):
                if not cell.runs:
                    self._result.cells.append(cell)
                self._say(f"{cell_name(cell)}: warming up")
                for server in servers.servers:
                    await reset_server(session, server.base_url)
                measured = Measured(cell, number, index, arms, switches)
                await self._run_cell(servers, measured, cells.model.vocabulary_size, cells.lengths[-1])

    def _arms(
        self, directory: Path, start: int, group: Mapping[Variant, Sequence[Variant]]
    ) -> dict[str, ArmPlan]:
        """What each server plays, by the label of the variant it is launched for."""
        if not self._plan.arm_steps:
            return {}
        plans = {}
        for variant, played in group.items():
            logs = directory / f"{variant.label.replace(':', '-')}.slices"
            shutil.rmtree(logs, ignore_errors=True)
            logs.mkdir(parents=True)
            plans[variant.label] = ArmPlan(
                variants=tuple(one.label for one in played),
                slice_steps=self._plan.arm_steps,
                seed=self._plan.seed + start,
                start=start,
                switch=logs / "switch",
                logs=logs,
                service=str(directory / READY_FILE),
            )
        return plans

    async def _run_cell(
        self, servers: ServerSet, measured: Measured, vocabulary_size: int, longest: int
    ) -> None:
        cell, start = measured.cell, measured.start
        seed = f"{self._plan.seed}/{cell.load}/{cell.clients}"
        before, earlier = list(cell.runs), list(cell.slices)
        async with loaded(servers, cell.load, seed, vocabulary_size, measured.shares) as players:
            work = await self._warm_up(players, cell.clients, longest)
            counted = await self._control(servers, players)
            measured.measure(on=True)
            for number in range(self._plan.rounds):
                await play_round(players, servers, number, work, f"{seed}/{start}/{number}")
                cell.runs = before + [run for player in players for run in player.runs(start)]
                measured.collect(earlier)
                measured.drop_behind()
                await asyncio.to_thread(self._result.save, self._output)
                done = f"round {number + 1}/{self._plan.rounds}"
                self._say(f"{cell_name(cell)}: {done}, {_speeds(cell, start, number)}")
            measured.measure(on=False)
            await self._count_control(servers, players, cell, counted)
        measured.collect(earlier)
        await asyncio.to_thread(self._result.save, self._output)

    async def _warm_up(self, players: Sequence[LoadedServer], clients: int, longest: int) -> Work:
        tokens = []
        for player in players:
            with player.awake():
                tokens.append(await player.warm_up(clients, self._plan.learn_s))
        burst_tokens = clients * (longest + 1)
        for player in players:
            with player.awake():
                # What was under way as it was stopped has come too by then.
                await player.catch_up(max(tokens) + burst_tokens)
        speeds = [count / self._plan.learn_s for count in tokens]
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
            # A fixed arm may have had its turn.
            player.wake_aside()
            now = (await self._control(servers, [player]))[label]
            # The newest: runs of earlier starts carry what was counted in those.
            mine = [run for run in cell.runs if run.variant == label]
            last = max(mine, key=lambda run: (run.group, run.round))
            last.control = control_delta(before[label], now)


def _speeds(cell: Cell, group: int, number: int) -> str:
    """Tokens a second of every server in one round."""
    mine = (run for run in cell.runs if (run.group, run.round) == (group, number))
    runs = sorted(mine, key=lambda run: run.variant)
    return "tok/s: " + ", ".join(f"{run.variant} {Window.of(run).tokens_per_s:.1f}" for run in runs)
