"""The measurements on a GPU, one server at a time: an 8B model leaves no room for two."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.admin import Admin, control_delta
from benchmarks.gpu.crediting import Crediting, check_crediting
from benchmarks.gpu.loss import KillResult, kill_result
from benchmarks.gpu.observe import Observer, cache_tokens, random_prompts
from benchmarks.gpu.plan import ACCEPTANCE, ALGORITHM, STAGE_ACCEPTANCE, closed_loop_variants, gpu_setup
from benchmarks.gpu.results import GpuResult, GridResult
from benchmarks.gpu.step_grid import GridCell, error_against, fit_error, fit_grid
from benchmarks.load import LoadGenerator
from benchmarks.models import Model
from benchmarks.results import Cell, VariantRun
from benchmarks.servers import Server, ServerSet
from benchmarks.spread import percentile
from benchmarks.turns import cut
from benchmarks.variants import Variant, VariantKind
from benchmarks.workload import LoadKind
from turbospec.v1.admin_pb2 import EngineStatus, ObservedStep

OURS: Final = Variant(VariantKind.TURBOSPEC)
ANSWER_TOKENS: Final = 1_024
LOOP_PROMPT_TOKENS: Final = 512
LOOP_ANSWER_TOKENS: Final = 256
RAMP_S: Final = 3.0
TELEMETRY_SETTLE_S: Final = 0.5
# Of the cache; beyond it requests queue and the batch is never full.
CACHE_SHARE: Final = 0.9
CHANGE_EVERY_S: Final = 0.3
KILL_CLIENTS: Final = 8


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What to measure and for how long; times in seconds."""

    model: Model
    device: str
    flags: tuple[str, ...]
    directory: Path
    clients: tuple[int, ...]
    contexts: tuple[int, ...]
    acceptance: tuple[str, ...]
    rounds: int
    seconds: float
    warmup_s: float
    cell_s: float
    cell_steps: int


class GpuStages:
    """Runs stages and puts what they find into `result`, which is saved after each."""

    def __init__(self, plan: GpuPlan, result: GpuResult, output: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._result = result
        self._output = output
        self._say = say

    async def run(self, stages: Sequence[str]) -> None:
        """In the order of the plan.

        Raises:
            ProcessFailed: a server did not start or died.
            LoadError: a server refused a request.
        """
        if "grid" in stages:
            await self._grid()
            self._save()
        if "crediting" in stages:
            self._result.crediting = await self._crediting()
            self._save()
        if "kill" in stages:
            self._result.kill = await self._kill()
            self._save()
        if "closed-loop" in stages:
            await self._closed_loop()

    # -- step times ----------------------------------------------------------

    async def _grid(self) -> None:
        """Every length at every batch size and prompt length, and both fits against it."""
        cells = self._result.grid_cells
        async with self._server("grid", STAGE_ACCEPTANCE["grid"], OURS) as (servers, server):
            capacity = CACHE_SHARE * await cache_tokens(server.base_url)
            assert servers.control_address is not None
            async with Observer(servers.control_address, server.engine_id) as observer:
                for clients in self._plan.clients:
                    for prompt_tokens in self._plan.contexts:
                        if clients * (prompt_tokens + ANSWER_TOKENS) > capacity:
                            self._say(f"grid: {clients} x {prompt_tokens} tokens do not fit into the cache")
                            continue
                        cells += await self._grid_cells(server, observer, clients, prompt_tokens)
                        self._save()
                predicted = await observer.predicted_cells()

        def online_s(cell: GridCell) -> float | None:
            found = predicted.get((cell.num_steps, cell.batch_size))
            if found is None:
                return None
            return found.intercept_s + found.context_slope_s_per_token * cell.median_context_tokens

        model = fit_grid(cells, f"{self._plan.model.name} on {self._result.environment.accelerator}")
        self._result.grid = GridResult(
            model=model,
            model_error=fit_error(model, cells),
            online_error=error_against(cells, online_s),
        )

    async def _grid_cells(
        self, server: Server, observer: Observer, clients: int, prompt_tokens: int
    ) -> list[GridCell]:
        """All lengths under one load."""
        cells = []
        seed = f"grid/{clients}/{prompt_tokens}"
        async with self._load(server, seed, prompt_tokens, ANSWER_TOKENS) as load:
            load.resize(clients)
            await load.run_for(RAMP_S)
            for num_steps in server_lengths():
                await observer.hold(num_steps)
                cell = GridCell(num_steps=num_steps, batch_size=clients, prompt_tokens=prompt_tokens)
                async for step in observer.steps(self._plan.cell_s):
                    if settled(step, cell):
                        cell.seconds.append(step.duration_s)
                        cell.context_tokens.append(step.context_tokens or _guessed_context(cell))
                    if len(cell.seconds) == self._plan.cell_steps:
                        break
                await load.run_for(0.0)
                shown_ms = percentile(cell.seconds, 50)
                self._say(
                    f"grid: length {num_steps}, batch {clients}, prompt {prompt_tokens}:"
                    f" {(shown_ms or float('nan')) * 1e3:.2f} ms, {len(cell.seconds)} steps"
                )
                cells.append(cell)
        return cells

    # -- records against what ran ---------------------------------------------

    async def _crediting(self) -> Crediting:
        """The length changes three times a second while every draft is accepted."""
        steps: list[ObservedStep] = []
        async with self._server("crediting", STAGE_ACCEPTANCE["crediting"], OURS) as (servers, server):
            assert servers.control_address is not None
            async with (
                Observer(servers.control_address, server.engine_id) as observer,
                self._load(server, "crediting", LOOP_PROMPT_TOKENS, LOOP_ANSWER_TOKENS) as load,
            ):
                load.resize(min(8, max(self._plan.clients)))
                await load.run_for(RAMP_S)
                changing = asyncio.create_task(observer.change(server_lengths(), CHANGE_EVERY_S))
                try:
                    steps = [step async for step in observer.steps(self._plan.seconds)]
                finally:
                    changing.cancel()
                    await asyncio.gather(changing, return_exceptions=True)
        return check_crediting(steps)

    # -- loss of control --------------------------------------------------------

    async def _kill(self) -> KillResult:
        """The service is killed halfway; clients see what that does to their tokens."""
        async with self._server("kill", STAGE_ACCEPTANCE["kill"], OURS) as (servers, server):
            assert servers.service is not None
            async with self._load(server, "kill", LOOP_PROMPT_TOKENS, LOOP_ANSWER_TOKENS) as load:
                load.resize(min(KILL_CLIENTS, max(self._plan.clients)))
                await load.run_for(self._plan.warmup_s)
                began_s = load.now_s
                await load.run_for(self._plan.seconds / 2)
                killed_s = load.now_s
                os.kill(servers.service.pid, signal.SIGKILL)
                await load.run_for(self._plan.seconds / 2)
                return kill_result(load.records, began_s, killed_s, load.now_s)

    # -- closed loop ----------------------------------------------------------------

    async def _closed_loop(self) -> None:
        """Every variant at every number of clients, acceptance by acceptance, in a shuffled order."""
        cells = {
            (level, clients): Cell(
                model=f"{self._plan.model.name}, acceptance {level}",
                algorithm=ALGORITHM,
                load=LoadKind.KNOB,
                clients=clients,
            )
            for level in self._plan.acceptance
            for clients in self._plan.clients
        }
        self._result.closed_loop = list(cells.values())
        for number in range(self._plan.rounds):
            for level in self._plan.acceptance:
                order = closed_loop_variants()
                random.Random(f"{number}/{level}").shuffle(order)
                for variant in order:
                    name = f"closed-loop-{level}-{number}"
                    async with self._server(name, ACCEPTANCE[level], variant) as (servers, server):
                        for clients in self._plan.clients:
                            run = await self._one_run(servers, server, clients, number)
                            cells[level, clients].runs.append(run)
                            self._save()
                            self._say(
                                f"closed loop {number + 1}, {level}, {clients} clients: {variant.label}"
                            )

    async def _one_run(self, servers: ServerSet, server: Server, clients: int, number: int) -> VariantRun:
        seed = f"loop/{clients}/{number}"
        async with self._load(server, seed, LOOP_PROMPT_TOKENS, LOOP_ANSWER_TOKENS) as load:
            load.resize(clients)
            await load.run_for(self._plan.warmup_s)
            before = await _status(servers, server)
            start_s = load.now_s
            await load.run_for(self._plan.seconds)
            end_s = load.now_s
            await asyncio.sleep(TELEMETRY_SETTLE_S)
            after = await _status(servers, server)
            records = list(load.records)
        return VariantRun(
            variant=server.variant.label,
            group=0,
            round=number,
            window_start_s=start_s,
            window_end_s=end_s,
            requests=cut(records, start_s, end_s),
            control=control_delta(before, after) if before is not None and after is not None else None,
        )

    # -- shared ------------------------------------------------------------------------

    @asynccontextmanager
    async def _server(
        self, name: str, acceptance: str, variant: Variant
    ) -> AsyncIterator[tuple[ServerSet, Server]]:
        plan = self._plan
        setup = gpu_setup(plan.model, plan.directory / name, acceptance, device=plan.device, flags=plan.flags)
        self._say(f"{name}: starting {variant.label}")
        async with ServerSet(setup, [variant], 1) as servers:
            yield servers, servers.servers[0]

    @asynccontextmanager
    async def _load(
        self, server: Server, seed: str, prompt_tokens: int, max_tokens: int
    ) -> AsyncIterator[LoadGenerator]:
        wanted = random_prompts(seed, self._plan.model.vocabulary_size, prompt_tokens, max_tokens)
        async with LoadGenerator(server.base_url, wanted) as load:
            yield load
            load.resize(0, at_once=True)

    def _save(self) -> None:
        self._output.write_text(self._result.model_dump_json(indent=1), encoding="utf-8")


def settled(step: ObservedStep, cell: GridCell) -> bool:
    """Whether it is a step of the cell as it runs on: neither length nor batch has just changed."""
    return (
        step.num_steps == step.previous_num_steps == cell.num_steps
        and step.batch_size == cell.batch_size
        and not any(step.first_step)
    )


def server_lengths() -> tuple[int, ...]:
    """Lengths of the grid: every one that a server may run."""
    return (0, *sorted({variant.num_steps for variant in closed_loop_variants() if variant.num_steps}))


async def _status(servers: ServerSet, server: Server) -> EngineStatus | None:
    if servers.control_address is None:
        return None
    async with Admin(servers.control_address) as admin:
        return await admin.engine(server.engine_id)


def _guessed_context(cell: GridCell) -> int:
    """Under overlap scheduling the lengths may not be on the host yet: on average half an answer is there."""
    return cell.batch_size * (cell.prompt_tokens + ANSWER_TOKENS // 2)
