"""A real SGLang engine under control for half an hour, with a load that moves: does anything grow?

Run as `python -m benchmarks.soak` or `make soak`. Memory, threads and file descriptors of the service, the
scheduler and the agent are sampled every few seconds. The exit status is 1 if memory grows beyond a bound
by more than its noise, if threads or descriptors grow, if a step record or a request is lost, or if a
step ran without a lease and nothing explains it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer

from benchmarks import environment, models
from benchmarks.admin import Admin
from benchmarks.engine import EXPECTED_FAILURES
from benchmarks.load import LoadGenerator
from benchmarks.processes import ManagedProcess
from benchmarks.report import report_console
from benchmarks.servers import Server, ServerSet, Setup
from benchmarks.soak_report import ProcessSample, Sample, SoakResult, faults_of, tables
from benchmarks.variants import Variant, VariantKind
from benchmarks.workload import Prompt, prompts

SAMPLE_S: Final = 5.0
# Caches fill and the allocator finds its size: not judged.
WARMUP_SHARE: Final = 0.2
LENGTHS: Final = (1, 2, 3, 5)
NANOSECONDS: Final = 1e-9
# How the processes below a server are told apart.
ROLES: Final = {"scheduler": "sglang::scheduler", "agent": "sglang_patch.agent"}
# A service as users start it: leases end by the clock too, what is learned goes to disk.
LEASE_VALID_FOR_MS: Final = 1_000

app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True, slots=True)
class Phase:
    """So many clients for so long; 0 is a pause."""

    clients: int
    seconds: float


# One round of the load; over and over, with other prompts each time.
PHASES: Final = (
    Phase(1, 20.0), Phase(8, 30.0), Phase(2, 20.0), Phase(0, 6.0), Phase(4, 20.0), Phase(8, 10.0),
    Phase(0, 2.0),
)  # fmt: skip


@app.command()
def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long; counted from the first request.")] = 30.0,
    model: Annotated[str, typer.Option(help="knob:SCALE or smollm2.")] = "knob:0.06",
    algorithm: Annotated[str, typer.Option(help="STANDALONE, EAGLE or NGRAM.")] = "STANDALONE",
    output: Annotated[Path, typer.Option(help="Samples as JSON; logs go beside it.")] = Path("soak.json"),
) -> None:
    """Soak one engine, print what grew, and say with the exit status whether that is a fault."""
    console = report_console()
    try:
        prepared = models.prepare(model)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    result = SoakResult(
        environment=environment.describe("cpu"), minutes=minutes, warmup_s=minutes * 60 * WARMUP_SHARE
    )
    directory = output.with_suffix(".logs")
    setup = Setup(prepared, algorithm, LENGTHS, "cpu", directory)
    try:
        asyncio.run(soak(setup, result, output))
    except EXPECTED_FAILURES as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        result.failed_requests += 1
    output.write_text(result.model_dump_json(), encoding="utf-8")
    try:
        found = tables(result)
    except ValueError as error:
        console.print(f"too short to judge growth: {error}", markup=False)
        raise typer.Exit(1) from None
    for table in found:
        console.print(table.to_rich())
    faults = faults_of(result)
    verdict = "; ".join(faults) or "nothing grew, every fallback is explained"
    console.print(f"{result.finished_requests} requests finished. {verdict}", markup=False)
    raise typer.Exit(1 if faults else 0)


async def soak(setup: Setup, result: SoakResult, output: Path) -> None:
    """Load one server and sample its processes; `result` grows as it goes and is saved every minute.

    Raises:
        ProcessFailed: a process ended.
        LoadError: a request failed.
    """
    # The service takes no relative path: whose directory would that be?
    store = (setup.directory / "learned.sqlite3").resolve()
    service_flags = ("--store", str(store), "--lease-valid-for-ms", str(LEASE_VALID_FOR_MS))
    variant = Variant(VariantKind.TURBOSPEC)
    async with ServerSet(setup, [variant], 1, service_flags=service_flags) as servers:
        (server,) = servers.servers
        assert servers.service is not None
        assert servers.control_address is not None
        load = LoadGenerator(server.base_url, _prompts(setup, 0))
        async with load, Admin(servers.control_address) as admin:
            moving = asyncio.create_task(_move(load, setup, result))
            try:
                await _sample_on(result, servers.service, server, load, admin, moving, output)
            finally:
                moving.cancel()
                await asyncio.gather(moving, return_exceptions=True)


async def _move(load: LoadGenerator, setup: Setup, result: SoakResult) -> None:
    """Phase after phase, round after round."""
    for number in itertools.count(1):
        for phase in PHASES:
            load.resize(phase.clients)
            if phase.clients:
                await load.run_for(phase.seconds)
            else:
                await asyncio.sleep(phase.seconds)
            result.finished_requests += sum(record.complete for record in load.records)
            # Kept for nobody: the generator must not be what grows.
            load.records[:] = [record for record in load.records if not record.complete]
        load.prompts = _prompts(setup, number)


def _prompts(setup: Setup, number: int) -> Iterator[Prompt]:
    kinds = setup.model.default_loads
    return prompts(kinds[number % len(kinds)], f"soak/{number}", setup.model.vocabulary_size)


async def _sample_on(
    result: SoakResult,
    service: ManagedProcess,
    server: Server,
    load: LoadGenerator,
    admin: Admin,
    moving: asyncio.Task[None],
    output: Path,
) -> None:
    """Until the time is over, or the load fails."""
    began_s = time.monotonic()
    for number in itertools.count(1):
        await asyncio.wait([moving], timeout=max(0.0, began_s + number * SAMPLE_S - time.monotonic()))
        if moving.done():
            moving.result()
        for process in (service, server.process):
            process.require_alive()
        at_s = time.monotonic() - began_s
        result.samples.append(await _sample(at_s, service, server, load.clients, admin))
        if number % 12 == 0:
            await asyncio.to_thread(output.write_text, result.model_dump_json(), encoding="utf-8")
        if at_s >= result.minutes * 60:
            return


async def _sample(at_s: float, service: ManagedProcess, server: Server, clients: int, admin: Admin) -> Sample:
    status = await admin.engine(server.engine_id)
    processes = {"service": psutil.Process(service.pid), **_roles(server.process)}
    return Sample(
        at_s=at_s,
        clients=clients,
        processes={name: _process_sample(process) for name, process in processes.items()},
        steps=status.steps_total,
        fallbacks_by_reason=dict(status.fallbacks_by_reason),
        drops_by_cause=dict(status.drops_by_cause),
        waited_for_lease_us_max=status.decision_wait_us.max,
    )


def _roles(tree: ManagedProcess) -> dict[str, psutil.Process]:
    """The scheduler and its agent among the processes of a server."""
    found = {}
    for process in tree.members():
        command = " ".join(process.cmdline())
        found.update({role: process for role, mark in ROLES.items() if mark in command})
    return found


def _process_sample(process: psutil.Process) -> ProcessSample:
    with process.oneshot():
        return ProcessSample(
            rss_bytes=process.memory_info().rss,
            threads=process.num_threads(),
            descriptors=process.num_fds(),
            core_wait_s=_core_wait_s(process.pid),
        )


def _core_wait_s(pid: int) -> float:
    """Seconds that the threads of a process were ready to run and had no core."""
    total_ns = 0
    for schedule in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(schedule.read_text(encoding="ascii").split()[1])
        except (OSError, IndexError):
            continue  # the thread has ended
    return total_ns * NANOSECONDS


if __name__ == "__main__":
    app()
