"""Benchmark of real SGLang servers: no speculation, fixed lengths, SGLang's adaptive, and ours.

Run as `python -m benchmarks.engine` or `turbospec bench engine`; `report FILE` shows saved results again.
"""

from __future__ import annotations

import asyncio
import datetime
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import aiohttp
import grpc
import typer
from rich.console import Console

from benchmarks import environment, models
from benchmarks.load import LoadError
from benchmarks.processes import ProcessFailed
from benchmarks.report import print_report, render_markdown, report_console
from benchmarks.results import BenchResult
from benchmarks.runner import CellSet, Plan, Runner
from benchmarks.servers import ServerRefused
from benchmarks.turns import Pace
from benchmarks.variants import ALGORITHMS, Variant, VariantKind, variants_for
from benchmarks.workload import LoadKind

DEFAULT_ARM_STEPS = 1
QUICK_ROUNDS = 5
QUICK_LEARN_S = 5.0
EXPECTED_FAILURES = (
    ProcessFailed,
    ServerRefused,
    LoadError,
    LookupError,
    OSError,
    aiohttp.ClientError,
    grpc.RpcError,
)

app = typer.Typer(add_completion=False, no_args_is_help=False, help=__doc__)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="knob:SCALE (default 0.02) or smollm2; repeat for more.")
    ] = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option(
            help="STANDALONE, EAGLE or NGRAM; repeat for more. Default: all the model has a draft for."
        ),
    ] = None,
    load: Annotated[
        list[LoadKind] | None,
        typer.Option(help="Repeat for more. Default: knob for knob models, else chat and copy."),
    ] = None,
    clients: Annotated[str, typer.Option(help="Concurrent clients, one cell each.")] = "1,4,8",
    lengths: Annotated[str, typer.Option(help="Fixed lengths; ours chooses from them and 0.")] = "1,2,3,5",
    variants: Annotated[
        str, typer.Option(help="Of nospec, fixed, fixed:K, adaptive, turbospec. Default: all.")
    ] = "",
    arm_steps: Annotated[
        int | None,
        typer.Option(
            "--arms",
            min=0,
            help="Decode steps that count, after one that pays for the change: so many ours, then each fixed "
            "length, by turns. 0: each has a server of its own, as always on a GPU, and as n-gram drafts of "
            "copied text need, which are accepted in runs. Default on a CPU: 1.",
        ),
    ] = None,
    starts: Annotated[
        int, typer.Option(min=1, help="Times the servers are started: a process is fast or slow by chance.")
    ] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Of each start; in one, every variant has a turn.")] = 8,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="Seconds of a turn, at the median speed of the variants.")
    ] = 2.5,
    slice_seconds: Annotated[
        float, typer.Option("--slice", min=0.02, help="Seconds until the next server goes on with its turn.")
    ] = 0.1,
    learn: Annotated[
        float,
        typer.Option(
            min=1,
            help="Seconds of load on every server before a cell: ours and SGLang's adaptive learn from it.",
        ),
    ] = 20.0,
    seed: Annotated[int, typer.Option(help="Of prompts and orders.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    sglang_flags: Annotated[str, typer.Option(help="More flags for every server, space separated.")] = "",
    start_parallel: Annotated[int, typer.Option(min=1, help="Servers that start at the same time.")] = 2,
    output: Annotated[
        Path | None, typer.Option(help="JSON results. Default: bench-engine-TIME.json.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(help="One start, little learning: to try it, not to quote it."),
    ] = False,
) -> None:
    """Start the servers, run every cell, save after each round, print the tables."""
    if context.invoked_subcommand:
        return
    console = report_console()
    try:
        plan = Plan(
            starts=1 if quick else starts,
            rounds=QUICK_ROUNDS if quick else rounds,
            pace=Pace(seconds=seconds, slice_s=slice_seconds),
            learn_s=QUICK_LEARN_S if quick else learn,
            seed=seed,
            start_parallel=start_parallel,
            arm_steps=check_arms(arm_steps, device),
        )
        cell_sets = plan_cells(
            [models.prepare(name) for name in model or ["knob:0.02"]],
            algorithms=algorithm,
            loads=load,
            clients=parse_numbers("clients", clients),
            lengths=parse_numbers("lengths", lengths),
            variants=variants,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise typer.Exit(1) from error
    target = output or Path(f"bench-engine-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json")
    settings = {name: str(value) for name, value in asdict(plan).items()} | {"sglang_flags": sglang_flags}
    result = BenchResult(environment=environment.describe(device), settings=settings)
    runner = Runner(
        plan=plan,
        result=result,
        output=target,
        directory=target.with_suffix(".logs"),
        device=device,
        flags=tuple(sglang_flags.split()),
        say=lambda line: console.print(line, highlight=False, markup=False),
    )
    status = _run(runner, cell_sets, console)
    if any(cell.runs for cell in result.cells):
        print_report(result, console)
        console.print(f"results: {target}")
    raise typer.Exit(status)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    markdown: Annotated[bool, typer.Option(help="Markdown instead of drawn tables.")] = False,
) -> None:
    """Show saved results."""
    result = BenchResult.load(file)
    if markdown:
        typer.echo(render_markdown(result), nl=False)
    else:
        print_report(result, report_console())


def plan_cells(
    prepared: list[models.Model],
    *,
    algorithms: list[str] | None,
    loads: list[LoadKind] | None,
    clients: tuple[int, ...],
    lengths: tuple[int, ...],
    variants: str,
) -> list[CellSet]:
    """One set of servers for every model and algorithm.

    Raises:
        ValueError: a choice that the model or the algorithm does not have.
    """
    return [
        CellSet(
            model=model,
            algorithm=name,
            variants=choose_variants(name, lengths, variants),
            lengths=lengths,
            loads=tuple(loads or model.default_loads),
            clients=clients,
        )
        for model in prepared
        for name in check_algorithms(model, algorithms)
    ]


def check_arms(arm_steps: int | None, device: str) -> int:
    """Decode steps of an arm.

    Raises:
        ValueError: arms are asked for on a GPU.
    """
    if device == "cpu":
        return DEFAULT_ARM_STEPS if arm_steps is None else arm_steps
    if arm_steps:
        raise ValueError(
            f"arms={arm_steps}: allowed with device {device} is 0: with overlap scheduling a length changes "
            "a step after it was decided"
        )
    return 0


def parse_numbers(name: str, text: str) -> tuple[int, ...]:
    """Ascending positive integers from `1,2,3`.

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{name}={text!r}: allowed are positive integers separated by commas")
    return tuple(sorted({int(part) for part in parts}))


def check_algorithms(model: models.Model, algorithms: list[str] | None) -> tuple[str, ...]:
    """The algorithms to run `model` with.

    Raises:
        ValueError: an algorithm that does not exist, or that the model has no draft for.
    """
    chosen = tuple(algorithms or model.default_algorithms)
    allowed = (*model.drafts, "NGRAM")
    for name in chosen:
        if name not in ALGORITHMS or name not in allowed:
            raise ValueError(f"algorithm={name!r}: allowed with model {model.name} are {', '.join(allowed)}")
    return chosen


def choose_variants(algorithm: str, lengths: tuple[int, ...], text: str) -> tuple[Variant, ...]:
    """Those of `variants_for` that `text` names; all of them if it names none.

    Raises:
        ValueError: a name that stands for nothing here.
    """
    possible = variants_for(algorithm, lengths)
    if not text:
        return tuple(possible)
    chosen: list[Variant] = []
    for name in (part.strip() for part in text.split(",")):
        named = [variant for variant in possible if name in (variant.label, str(variant.kind))]
        # SGLang's adaptive exists for EAGLE only; asked for beside other algorithms, it is left out there.
        if not named and name != VariantKind.ADAPTIVE:
            allowed = ", ".join(variant.label for variant in possible)
            raise ValueError(f"variants={text!r}: {name!r} is not one of {allowed}, fixed")
        chosen += [variant for variant in named if variant not in chosen]
    return tuple(variant for variant in possible if variant in chosen)


def _run(runner: Runner, cell_sets: list[CellSet], console: Console) -> int:
    """The exit status: 0, 1 for a failure, 130 for an interruption."""

    async def watched() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await runner.run(cell_sets)

    try:
        asyncio.run(watched())
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted: every server is stopped, what was measured is saved")
        return 130
    except EXPECTED_FAILURES as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    app()
