"""`turbospec replay`: policies against traces, in virtual time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from control_service.cli.errors import CliError, ExitCode, usage_error
from control_service.cli.options import parse_candidates
from control_service.core.policies.spelling import FORMS
from control_service.replay import parse
from control_service.replay.build import Inputs, build_plan
from control_service.replay.errors import ReplayInputError
from control_service.replay.files import load_step_times, load_trace
from control_service.replay.metrics import RunResult
from control_service.replay.plan import Plan, Unit
from control_service.replay.recorded import engine_from_trace
from control_service.replay.report import cell_table, phase_table
from control_service.replay.runner import run_plan
from control_service.replay.summary import Row, summarise
from control_service.store.step_trace import StepTraceError, read_step_trace

TABLE_WIDTH = 190
CANDIDATES = "0,1,2,3,5,7"
CONCURRENCY = "1,4,16,64,128"
STDOUT = Path("-")


def replay(
    step_time: Annotated[
        Path | None, typer.Option(help="Step-time model, a JSON file; --trace and --acceptance need it.")
    ] = None,
    trace: Annotated[
        list[Path] | None, typer.Option(help="Acceptance trace, JSON lines; may be repeated.")
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(help="Instead of traces: RATE, or a schedule RATE:SECONDS,RATE:SECONDS,... in time."),
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Instead of both: steps of a live engine, from `turbospec record`.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="The engine, where the recording has several.")] = None,
    drafter: Annotated[
        list[str] | None, typer.Option(help="Drafters of the traces; may be repeated. Default: all.")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            help=f"Requests running at once, one cell each. Default: {CONCURRENCY}, or as recorded."
        ),
    ] = None,
    phases: Annotated[
        str | None,
        typer.Option(help="Instead: CONCURRENCY:SECONDS,... one after the other, the traces alternating."),
    ] = None,
    drain: Annotated[
        bool,
        typer.Option("--drain", help="Where concurrency falls, let requests finish; else the newest leave."),
    ] = False,
    mute: Annotated[
        float, typer.Option(min=0, max=86_400, help="Nothing of the traces is accepted for so many seconds.")
    ] = 0.0,
    candidates: Annotated[
        str | None,
        typer.Option(
            help=f"Lengths to choose from, 0 first. Default: {CANDIDATES}, or the recorded engine's."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="Virtual seconds a run.")] = 20.0,
    seeds: Annotated[str, typer.Option(help="As in 1-5 or 1,2,7.")] = "1-5",
    policy: Annotated[
        list[str] | None,
        typer.Option(help=f"May be repeated. {FORMS}. Default: goodput."),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lognormal sigma of step times, over the file's.")
    ] = None,
    outliers: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="Share of slow steps, over the file's.")
    ] = None,
    drift: Annotated[
        str | None,
        typer.Option(
            help="A machine whose speed moves: FACTOR,FACTOR,...:SECONDS, as in 1,1,1.25,1.5:1, one of the"
            " factors on all step times, drawn anew after so many seconds on average."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes to run on. Default: one a core.")
    ] = None,
    every_fixed: Annotated[bool, typer.Option("--every-fixed", help="Show all fixed lengths.")] = False,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", help="Write all results here as JSON; -: on stdout, instead of the tables."),
    ] = None,
) -> None:
    """Compare policies on acceptance traces, in virtual time.

    They are shown beside fixed lengths and bounds.

    The control service's own session decides, from what it would see online: accepted drafts of what
    was proposed, and noisy step times, late. Runs are counted from their first, cold step.
    """
    if as_json is not None and not as_json.parent.is_dir():
        raise usage_error("--json", as_json, "a file in a directory that exists")
    with _usage_errors():
        live = engine_from_trace(str(recorded), read_step_trace(recorded), engine) if recorded else None
        if concurrency is None:
            concurrency = str(live.usual_batch_size) if live is not None else CONCURRENCY
        if candidates is None:
            candidates = ",".join(map(str, live.candidates)) if live is not None else CANDIDATES
        lengths = parse_candidates(candidates)
        plan = build_plan(
            Inputs(
                step_times=load_step_times(step_time) if step_time is not None else None,
                recorded=live,
                traces=tuple(load_trace(path) for path in trace or ()),
                acceptance=parse.parse_acceptance(acceptance) if acceptance is not None else None,
                drafters=tuple(drafter or ()),
                concurrencies=parse.parse_concurrencies(concurrency),
                phases=parse.parse_phases(phases) if phases is not None else None,
                drain=drain,
                mute_s=mute,
                seconds=seconds,
                noise=noise,
                outliers=outliers,
                drift=parse.parse_drift(drift) if drift is not None else None,
            ),
            candidates=lengths,
            policies=tuple(dict.fromkeys(policy or ["goodput"])),
            seeds=parse.parse_seeds(seeds),
        )
    rows = summarise(plan, _run(plan, workers or os.cpu_count() or 1))
    if as_json is not None:
        text = json.dumps([row.plain() for row in rows], indent=1) + "\n"
        if as_json == STDOUT:
            sys.stdout.write(text)
            return
        as_json.write_text(text, encoding="utf-8")
    _print(rows, plan.cells[0].traces, every_fixed=every_fixed)


def _run(plan: Plan, workers: int) -> dict[Unit, RunResult]:
    results: dict[Unit, RunResult] = {}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=len(plan.units))
        for unit, result in run_plan(plan, min(workers, len(plan.units))):
            results[unit] = result
            progress.advance(task)
    return results


def _print(rows: list[Row], traces: tuple[str, ...], *, every_fixed: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    console.print(cell_table(rows, every_fixed=every_fixed))
    for drafter in dict.fromkeys(row.drafter for row in rows if len(row.phases) > 1):
        console.print(phase_table([row for row in rows if row.drafter == drafter], traces))


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except (ReplayInputError, StepTraceError) as error:
        raise CliError(str(error), ExitCode.USAGE) from error
    except OSError as error:
        raise CliError(f"{error.filename}: cannot be read: {error.strerror}", ExitCode.USAGE) from error
