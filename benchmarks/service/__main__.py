"""How many engines one control service holds on one core.

Run as `python -m benchmarks.service` or `turbospec bench service`. Synthetic engines keep a real decision
stream each, at 100 steps a second, and export OTLP spans as the plugin does. Their number goes up until
answers take more than 5 ms at the 99th percentile or anything is lost; the largest number held is confirmed
by a longer run. Twice: with leases of one step, so that every step asks, and with leases of 16 steps.

`replicas` puts two services and a Redis behind Envoy, and kills one of the services.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
import uvloop

from benchmarks import environment
from benchmarks.processes import ProcessFailed
from benchmarks.report import report_console
from benchmarks.service import replicas, report
from benchmarks.service.cores import Cores, pinned
from benchmarks.service.load import STEPS_PER_S
from benchmarks.service.results import Asking, ServiceResult
from benchmarks.service.search import largest_held
from benchmarks.service.trial import TrialPlan, run_trial

EXPECTED_FAILURES = (ProcessFailed, OSError, grpc.RpcError)

app = typer.Typer(add_completion=False, help=__doc__)
Output = Annotated[Path | None, typer.Option(help="Keep the result as JSON here.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    *,
    asking: Annotated[
        list[Asking] | None, typer.Option(help="One way of asking only; repeat for more.")
    ] = None,
    engines: Annotated[
        int, typer.Option(min=0, help="One trial with so many engines instead of a search.")
    ] = 0,
    first: Annotated[int, typer.Option(min=1, help="Engines of the search's first trial.")] = 8,
    limit: Annotated[int, typer.Option(min=1, max=5_000, help="Engines at most.")] = 512,
    seconds: Annotated[float, typer.Option(min=1, help="Counted seconds of a trial.")] = 10.0,
    confirm_seconds: Annotated[float, typer.Option(min=1, help="Of the run that confirms.")] = 30.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds before the counted ones.")] = 4.0,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Requests in a step.")] = 64,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Find the largest number of engines held."""
    if context.invoked_subcommand:
        return
    with tempfile.TemporaryDirectory(prefix="turbospec-bench-") as directory:
        plan = _plan(batch, warmup, Path(directory))
        result = ServiceResult(
            environment=environment.describe("none"), batch_size=batch, steps_per_s=STEPS_PER_S
        )
        bench = _Bench(plan, result)
        for one in asking or list(Asking):
            if engines:
                _run(bench.trial(one, engines, seconds))
            else:
                _run(bench.search(one, min(first, limit), limit, seconds, confirm_seconds))
    _finish(result, output, as_json)


app.command("replicas")(replicas.command)


class _Bench:
    """Runs trials and keeps what they found."""

    def __init__(self, plan: TrialPlan, result: ServiceResult) -> None:
        self._plan = plan
        self._result = result
        self._console = report_console(stderr=True)

    async def trial(self, asking: Asking, engines: int, seconds: float) -> bool:
        """Whether the engines were held."""
        trial = await run_trial(self._plan, asking, engines, seconds)
        self._result.trials.append(trial)
        verdict = "held" if trial.held else ", ".join(trial.faults)
        p99_ms = (trial.answer_p99_s or 0.0) * 1e3
        self._console.print(
            f"{asking}: {engines} engines, p99 {p99_ms:.2f} ms, service {trial.service_cores:.2f} cores,"
            f" load {trial.load_cores:.2f} cores: {verdict}"
        )
        return trial.held

    async def search(
        self, asking: Asking, first: int, limit: int, seconds: float, confirm_seconds: float
    ) -> None:
        """The largest number held, and held again for longer; one less while that fails."""
        engines = await largest_held(lambda number: self.trial(asking, number, seconds), first, limit)
        while engines and not await self.trial(asking, engines, confirm_seconds):
            engines -= max(1, engines // 25)
        self._result.engines_held[asking] = engines


def _plan(batch: int, warmup_s: float, directory: Path) -> TrialPlan:
    try:
        cores = Cores.of_this_machine()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return TrialPlan(batch_size=batch, warmup_s=warmup_s, directory=directory, cores=cores)


def _run(work: Coroutine[Any, Any, object]) -> None:
    """On the load's cores, until done or told to stop."""

    async def watched() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    try:
        with pinned(Cores.of_this_machine().load):
            uvloop.run(watched())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    except EXPECTED_FAILURES as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _finish(result: ServiceResult, output: Path | None, as_json: bool) -> None:
    if output is not None:
        output.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    console = report_console()
    for table in report.tables(result):
        console.print(table.to_rich())
    for note in report.notes(result):
        console.print(note)


if __name__ == "__main__":
    app()
