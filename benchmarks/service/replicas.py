"""Two replicas of the service and a Redis behind Envoy: first under load, then one replica is killed.

The load phase is a trial like those of the search, through Envoy. In the second phase the engines are
the real plugin with its agent processes, stepped without SGLang, so that what is counted is what a
scheduler would have seen.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import grpc
import typer
import uvloop

from benchmarks import environment
from benchmarks.admin import Admin
from benchmarks.processes import ProcessFailed
from benchmarks.report import Table, report_console
from benchmarks.results import Environment, Record
from benchmarks.servers import HOST, free_port
from benchmarks.service import report
from benchmarks.service.backends import BackendMissing, envoy_proxy, redis_server
from benchmarks.service.cores import Cores, pinned
from benchmarks.service.load import STEPS_PER_S
from benchmarks.service.plugin_engines import PluginEngine, SteppedAt, Stepper
from benchmarks.service.results import Asking, ServiceResult, Trial
from benchmarks.service.trial import RunningService, TrialPlan, control_service, load_services, room_for
from turbospec.v1.admin_pb2 import EngineStatus

REPLICAS: Final = 2
SAVE_INTERVAL_S: Final = 1.0
LEARN_TIMEOUT_S: Final = 60.0
# Refits; enough for a fit that is kept in the store.
LEARNED_GENERATION: Final = 16
# Until the survivor has every engine, at most.
FAILOVER_TIMEOUT_S: Final = 20.0
AFTER_S: Final = 3.0
LOOK_S: Final = 0.01
# What a lease covers; a lost replica may cost no more.
LEASE_STEPS: Final = 16


class EngineFailover(Record):
    """What the loss of a replica was to one engine. Times in seconds."""

    engine_id: str
    # Its replica was the one that was killed.
    moved: bool
    steps_before: int
    bare_steps_before: int
    # All steps without a valid lease from the kill on, and how long the first ones lasted; None: to the end.
    bare_steps: int
    outage_s: float | None
    # From the kill until the survivor had its stream, and its model's refits at first sight: 1 is cold.
    on_survivor_after_s: float | None
    model_generation: int


class ReplicasResult(Record):
    """Both phases."""

    environment: Environment
    load: Trial
    failover: list[EngineFailover]

    @property
    def within_one_lease(self) -> bool:
        """Whether no engine lost more steps than a lease covers, and all are under control again."""
        return all(
            engine.bare_steps <= LEASE_STEPS and engine.outage_s is not None for engine in self.failover
        )


def command(
    engines: Annotated[int, typer.Option(min=2, max=64, help="Engines, in both phases.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Counted seconds of the load phase.")] = 20.0,
    learn_seconds: Annotated[
        float, typer.Option(min=2, help="Seconds under control before the kill.")
    ] = 15.0,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Requests in a step.")] = 64,
    output: Annotated[Path | None, typer.Option(help="Keep the result as JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Two services and a Redis behind Envoy; one service is killed while the engines run."""
    try:
        cores = Cores.of_this_machine()
        with tempfile.TemporaryDirectory(prefix="turbospec-bench-") as directory, pinned(cores.load):
            plan = TrialPlan(batch_size=batch, warmup_s=4.0, directory=Path(directory), cores=cores)
            result = uvloop.run(run_replicas(plan, engines, seconds=seconds, learn_s=learn_seconds))
    except (ValueError, BackendMissing, ProcessFailed, OSError, grpc.RpcError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if output is not None:
        output.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        _show(result, batch)
    raise typer.Exit(0 if result.within_one_lease else 1)


async def run_replicas(
    plan: TrialPlan,
    engines: int,
    *,
    seconds: float,
    learn_s: float,
    environment_of_engines: Mapping[str, str] = MappingProxyType({}),
) -> ReplicasResult:
    """Start everything, run both phases, stop everything."""
    async with AsyncExitStack() as stack:
        with pinned(plan.cores.service):
            redis = await stack.enter_async_context(redis_server(plan.directory))
        ports = [free_port() for _ in range(REPLICAS)]
        flags = ("--store-save-interval-s", str(SAVE_INTERVAL_S), *room_for(2 * engines))
        services = [
            await stack.enter_async_context(
                control_service(plan, f"{HOST}:{port}", flags, name=f"replica-{number}", store=redis)
            )
            for number, port in enumerate(ports)
        ]
        with pinned(plan.cores.service):
            address = await stack.enter_async_context(envoy_proxy(plan.directory, ports))
        load = await load_services(plan, address, services, Asking.LEASES, engines, seconds)
        # Numbers beyond those of the load phase: these engines are new to everybody.
        plugins = [
            PluginEngine(1_000 + number, address, plan.batch_size, environment_of_engines)
            for number in range(engines)
        ]
        failover = await fail_over(services, plugins, learn_s)
    return ReplicasResult(environment=environment.describe("none"), load=load, failover=failover)


async def fail_over(
    services: Sequence[RunningService], plugins: list[PluginEngine], learn_s: float
) -> list[EngineFailover]:
    """Kill the replica that has more engines, in the middle of everything."""
    names = {engine.profile.engine_id for engine in plugins}
    with Stepper(plugins) as stepper:
        await _until_learned(services, names)
        counted_from_s = time.monotonic()
        await asyncio.sleep(learn_s)
        owned = [set(await _connected(service)) & names for service in services]
        victim = max(range(len(services)), key=lambda number: len(owned[number]))
        survivor = services[1 - victim]
        killed_s = time.monotonic()
        os.kill(services[victim].process.pid, signal.SIGKILL)
        seen = await _arrivals(survivor, owned[victim], killed_s)
        await asyncio.sleep(AFTER_S)
        await _until_leased(plugins, killed_s)
        if stepper.failure is not None:
            raise stepper.failure
    return [
        _judged(engine, counted_from_s, killed_s, seen, moved=engine.profile.engine_id in owned[victim])
        for engine in plugins
    ]


async def _until_learned(services: Sequence[RunningService], names: set[str]) -> None:
    """All engines are connected, and more is known of each than a cold start."""
    deadline_s = time.monotonic() + LEARN_TIMEOUT_S
    while True:
        statuses = [status for service in services for status in (await _connected(service)).values()]
        learned = {s.profile.engine_id for s in statuses if s.model_generation >= LEARNED_GENERATION}
        if names <= learned:
            return
        if time.monotonic() > deadline_s:
            raise services[0].process.failure(f"nor the others have learned {sorted(names - learned)}")
        await asyncio.sleep(0.1)


async def _until_leased(plugins: Sequence[PluginEngine], killed_s: float) -> None:
    """Every engine has recovered from its first loss, or the time is over."""
    while time.monotonic() < killed_s + FAILOVER_TIMEOUT_S:
        after = [[step for step in engine.steps if step.begun_s >= killed_s] for engine in plugins]
        if all(steps and outage_s(steps) is not None for steps in after):
            return
        await asyncio.sleep(LOOK_S)


async def _connected(service: RunningService) -> dict[str, EngineStatus]:
    async with Admin(service.address) as admin:
        return {status.profile.engine_id: status for status in await admin.engines() if status.connected}


async def _arrivals(
    service: RunningService, names: set[str], killed_s: float
) -> dict[str, tuple[float, int]]:
    """When each engine was first seen on the service, from the kill, and its model generation then."""
    seen: dict[str, tuple[float, int]] = {}
    async with Admin(service.address) as admin:
        while len(seen) < len(names) and time.monotonic() < killed_s + FAILOVER_TIMEOUT_S:
            statuses = await admin.engines()
            now_s = time.monotonic() - killed_s
            for status in statuses:
                name = status.profile.engine_id
                if status.connected and name in names and name not in seen:
                    seen[name] = (now_s, status.model_generation)
            await asyncio.sleep(LOOK_S)
    return seen


def _judged(
    engine: PluginEngine, from_s: float, killed_s: float, seen: dict[str, tuple[float, int]], *, moved: bool
) -> EngineFailover:
    before = [step for step in engine.steps if from_s <= step.begun_s < killed_s]
    after = [step for step in engine.steps if step.begun_s >= killed_s]
    on_survivor_s, generation = seen.get(engine.profile.engine_id, (None, 0))
    return EngineFailover(
        engine_id=engine.profile.engine_id,
        moved=moved,
        steps_before=len(before),
        bare_steps_before=bare_steps(before),
        bare_steps=bare_steps(after),
        outage_s=outage_s(after),
        on_survivor_after_s=on_survivor_s,
        model_generation=generation,
    )


def bare_steps(steps: Sequence[SteppedAt]) -> int:
    """How many began without a valid lease."""
    return sum(not step.leased for step in steps)


def outage_s(steps: Sequence[SteppedAt]) -> float | None:
    """From the first step without a lease to the next one that has one; 0 if all have, None if none has."""
    bare_s = next((step.begun_s for step in steps if not step.leased), None)
    if bare_s is None:
        return 0.0
    return next((step.begun_s - bare_s for step in steps if step.leased and step.begun_s > bare_s), None)


def _show(result: ReplicasResult, batch: int) -> None:
    console = report_console()
    load = ServiceResult(
        environment=result.environment, batch_size=batch, steps_per_s=STEPS_PER_S, trials=[result.load]
    )
    title = "two replicas and Redis behind Envoy; all four on one core"
    table = report.trials_table(load, result.load.asking)
    console.print(Table(title, table.columns, table.rows).to_rich())
    console.print(failover_table(result.failover).to_rich())


def failover_table(engines: Sequence[EngineFailover]) -> Table:
    """One line for each engine."""
    columns = (
        "engine", "its replica", "bare / steps before", "bare steps after", "outage ms",
        "on the survivor after ms", "refits known there",
    )  # fmt: skip
    rows = [
        (
            engine.engine_id,
            "killed" if engine.moved else "survived",
            f"{engine.bare_steps_before} / {engine.steps_before}",
            str(engine.bare_steps),
            _ms(engine.outage_s),
            _ms(engine.on_survivor_after_s),
            str(engine.model_generation or "-"),
        )
        for engine in engines
    ]
    return Table("one replica killed (SIGKILL)", columns, rows)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f}"
