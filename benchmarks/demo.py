"""A load that moves, on one engine under control; then the same prompts with every length held fixed.

Run as `python -m benchmarks.demo` or `turbospec demo`. Without --url it starts SmolLM2 with NGRAM by itself.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import grpc
import typer
from rich.console import Console

from benchmarks import models
from benchmarks.admin import Admin
from benchmarks.demo_view import Phase, Reading, comparison_table, screen
from benchmarks.load import LoadError, LoadGenerator, measure_seconds
from benchmarks.processes import ProcessFailed
from benchmarks.report import report_console
from benchmarks.results import Cell, VariantRun
from benchmarks.servers import ServerRefused, ServerSet, Setup, control_session, reset_server
from benchmarks.stats import cell_stats
from benchmarks.variants import Variant, VariantKind
from benchmarks.workload import LoadKind, prompts
from turbospec.v1 import admin_pb2

CLIENTS_OVER_TIME: Final = (1, 8, 2)
LOADS: Final = (LoadKind.CHAT, LoadKind.COPY)
COMPARISON_CLIENTS: Final = 2
COMPARISON_RAMP_S: Final = 0.5
# Longer than any run of the comparison: were we killed in one, the engine would get its policy back.
HOLD_MS: Final = 120_000
OWN_LENGTHS: Final = (1, 3, 5)
GOODPUT: Final = Variant(VariantKind.TURBOSPEC)
EXPECTED_FAILURES: Final = (
    *(ProcessFailed, ServerRefused, LoadError, LookupError, OSError, ValueError),
    *(aiohttp.ClientError, grpc.RpcError, subprocess.CalledProcessError),
)
HONESTY: Final = (
    'Here "no speculation" is length 0 on this engine, launched with its drafter and keeping it warm. '
    "`turbospec bench engine` compares with an engine launched without a drafter."
)

app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each part takes, in seconds."""

    phase_s: float
    # All of the comparison, shared among its runs.
    comparison_s: float
    rounds: int


FULL: Final = Pace(phase_s=10.0, comparison_s=96.0, rounds=2)
QUICK: Final = Pace(phase_s=4.0, comparison_s=30.0, rounds=1)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine under control, and the way to it."""

    base_url: str
    engine_id: str
    admin: Admin

    async def status(self) -> admin_pb2.EngineStatus:
        return await self.admin.engine(self.engine_id)

    async def hold(self, variant: Variant) -> None:
        """Let the goodput policy decide, or hold one length, from the next step on."""
        if variant == GOODPUT:
            await self.admin.set_policy(self.engine_id, "goodput")
        else:
            await self.admin.set_policy(
                self.engine_id, "static", hold_for_ms=HOLD_MS, num_steps=str(variant.num_steps)
            )


@app.command()
def main(
    *,
    url: Annotated[str, typer.Option(help="Endpoint of a running engine. Default: start one.")] = "",
    control: Annotated[
        str, typer.Option(help="Address of its control service: host:port or unix:/path.")
    ] = "",
    engine_id: Annotated[str, typer.Option(help="Which engine. Default: the only one.")] = "",
    quick: Annotated[bool, typer.Option(help="About a minute.")] = False,
) -> None:
    """Show the loop at work."""
    if bool(url) != bool(control):
        raise typer.BadParameter("--url and --control belong together: give both, or neither")
    console = report_console()
    try:
        asyncio.run(_until_terminated(_demo(console, url, control, engine_id, QUICK if quick else FULL)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted")
        raise typer.Exit(130) from None
    except EXPECTED_FAILURES as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


async def _until_terminated(work: Coroutine[object, object, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await work


async def _demo(console: Console, url: str, control: str, engine_id: str, pace: Pace) -> None:
    async with AsyncExitStack() as stack:
        if not url:
            url, control, engine_id = await _start_own(stack, console)
        admin = await stack.enter_async_context(Admin(control))
        engine = Engine(url.rstrip("/"), engine_id or await only_engine_id(admin), admin)
        policy = (await engine.status()).policy
        try:
            await engine.hold(GOODPUT)
            await show_moving_load(engine, console, pace)
            await show_comparison(engine, console, pace)
        finally:
            if policy != "goodput":
                console.print(f"the engine's policy was {policy!r} before and is goodput now", markup=False)
            await engine.hold(GOODPUT)


async def _start_own(stack: AsyncExitStack, console: Console) -> tuple[str, str, str]:
    """Start SmolLM2 with NGRAM and the control service: endpoint, control address, engine id."""
    model = await asyncio.to_thread(models.prepare, "smollm2")
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turbospec-demo-")))
    console.print("starting SGLang with SmolLM2-135M-Instruct and NGRAM, and the control service ...")
    setup = Setup(model, "NGRAM", OWN_LENGTHS, "cpu", directory)
    servers = await stack.enter_async_context(ServerSet(setup, [GOODPUT], start_parallel=1))
    assert servers.control_address is not None, "the goodput variant has a control service"
    server = servers.servers[0]
    return server.base_url, servers.control_address, server.engine_id


async def only_engine_id(admin: Admin) -> str:
    """The id of the one connected engine.

    Raises:
        ValueError: there is none, or more than one.
    """
    connected = [status.profile.engine_id for status in await admin.engines() if status.connected]
    if len(connected) != 1:
        raise ValueError(
            f"engine_id='': allowed is one of the connected engines: {', '.join(connected) or 'none'}"
        )
    return connected[0]


async def show_moving_load(engine: Engine, console: Console, pace: Pace) -> None:
    """1 -> 8 -> 2 clients with chat, then with text that copies its prompt; one row a phase."""
    phases: list[Phase] = []
    async with LoadGenerator(engine.base_url, prompts(LoadKind.CHAT, "demo", 0)) as load:
        with screen(console) as view:
            for kind in LOADS:
                load.prompts = prompts(kind, "demo", 0)
                for clients in CLIENTS_OVER_TIME:
                    load.resize(clients, at_once=True)
                    await _one_phase(engine, load, phases, view.show, f"{kind}", clients, pace.phase_s)


async def _one_phase(
    engine: Engine,
    load: LoadGenerator,
    phases: list[Phase],
    show: Callable[[list[Phase]], None],
    kind: str,
    clients: int,
    seconds: float,
) -> None:
    first = await _read(engine, load)
    phases.append(Phase(kind, clients, first, first))
    while (left_s := first.at_s + seconds - time.monotonic()) > 0:
        await load.run_for(min(1.0, left_s))
        phases[-1] = Phase(kind, clients, first, await _read(engine, load))
        show(phases)


async def _read(engine: Engine, load: LoadGenerator) -> Reading:
    status = await engine.status()
    return Reading(time.monotonic(), load.tokens_total, status)


async def show_comparison(engine: Engine, console: Console, pace: Pace) -> None:
    """Every length held fixed, and ours, interleaved over the same prompts."""
    profile = (await engine.status()).profile
    variants = [comparison_variant(length) for length in profile.candidate_num_steps] + [GOODPUT]
    seconds = pace.comparison_s / (len(variants) * len(LOADS) * pace.rounds)
    console.print(
        f"comparing {len(variants)} policies on this engine, {pace.rounds} interleaved rounds, "
        f"{COMPARISON_CLIENTS} clients, {seconds:.1f} s a run ..."
    )
    cells = [
        Cell(model=profile.target_model, algorithm=profile.algorithm, load=kind, clients=COMPARISON_CLIENTS)
        for kind in LOADS
    ]
    for number in range(pace.rounds):
        for cell in cells:
            order = random.Random(f"{number}/{cell.load}").sample(variants, len(variants))
            cell.runs += [await _run(engine, cell, variant, number, seconds) for variant in order]
    console.print(comparison_table([cell_stats(cell) for cell in cells]).to_rich())
    console.print(HONESTY, markup=False, highlight=False)


def comparison_variant(length: int) -> Variant:
    """The name under which a held length is counted."""
    return Variant(VariantKind.FIXED, length) if length else Variant(VariantKind.NOSPEC)


async def _run(engine: Engine, cell: Cell, variant: Variant, number: int, seconds: float) -> VariantRun:
    await engine.hold(variant)
    async with control_session() as session:
        await reset_server(session, engine.base_url)
    source = prompts(cell.load, f"demo/{number}", 0)
    ramp_s = min(COMPARISON_RAMP_S, seconds / 4)
    measured = await measure_seconds(engine.base_url, source, cell.clients, ramp_s, seconds - ramp_s)
    return VariantRun(
        variant=variant.label,
        group=0,
        round=number,
        window_start_s=measured.window_start_s,
        window_end_s=measured.window_end_s,
        requests=measured.records,
    )


if __name__ == "__main__":
    app()
