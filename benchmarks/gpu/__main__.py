"""SGLang with our plugin on an NVIDIA GPU: step times, closed loop, loss of control, crediting of lengths.

Run as `python -m benchmarks.gpu` on a machine with one NVIDIA GPU, offline. The model has the shape of
Llama-3.1-8B with a one-layer EAGLE head and random weights; acceptance is set by SGLang's own simulation.
`--dry-run` prints every command and environment, and checks configurations and flags, without a GPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import environment, models
from benchmarks.engine import EXPECTED_FAILURES, parse_numbers
from benchmarks.gpu import plan as plans
from benchmarks.gpu.configs import write_llama_8b
from benchmarks.gpu.loss import KillResult
from benchmarks.gpu.results import GpuResult, GridResult
from benchmarks.gpu.setup_check import check_flags, check_model, gpu_faults, versions
from benchmarks.gpu.stages import GpuPlan, GpuStages
from benchmarks.models import Model
from benchmarks.report import Table, control_table, report_console, speed_table, summary_table
from benchmarks.servers import COMMON_FLAGS
from benchmarks.stats import cell_stats

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print and check the plan, start nothing.")
    ] = False,
    stage: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(plans.STAGES)}; repeat for more. Default: all.")
    ] = None,
    acceptance: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(plans.ACCEPTANCE)}; repeat for more. Default: all."),
    ] = None,
    clients: Annotated[str, typer.Option(help="Concurrent requests.")] = ",".join(map(str, plans.CLIENTS)),
    contexts: Annotated[str, typer.Option(help="Prompt tokens of the grid.")] = ",".join(
        map(str, plans.CONTEXTS)
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Of the closed loop.")] = 2,
    seconds: Annotated[float, typer.Option(min=1, help="Counted seconds of one run.")] = 30.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before them.")] = 8.0,
    cell_seconds: Annotated[
        float, typer.Option(min=0.1, help="At most so long for a cell of the grid.")
    ] = 4.0,
    cell_steps: Annotated[int, typer.Option(min=8, help="Steps of a cell of the grid.")] = 60,
    model: Annotated[
        str, typer.Option(help="llama-8b, or knob:SCALE to try the script on a CPU.")
    ] = "llama-8b",
    output: Annotated[Path, typer.Option(help="Results as JSON; logs and configurations beside it.")] = Path(
        "bench-gpu.json"
    ),
) -> None:
    """Check the set-up, then run the stages."""
    console = report_console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        stages = _chosen("stage", stage, plans.STAGES)
        levels = _chosen("acceptance", acceptance, tuple(plans.ACCEPTANCE))
        sizes, lengths = parse_numbers("clients", clients), parse_numbers("contexts", contexts)
        directory = output.with_suffix(".run")
        prepared, device = _prepare(model, directory)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    flags = plans.GPU_FLAGS if device == "cuda" else COMMON_FLAGS
    if not _check(prepared, directory, device, stages, flags, say, dry_run=dry_run):
        raise typer.Exit(1)
    if dry_run:
        return
    plan = GpuPlan(
        model=prepared, device=device, flags=flags, directory=directory, clients=sizes, contexts=lengths,
        acceptance=levels, rounds=rounds, seconds=seconds, warmup_s=warmup, cell_s=cell_seconds,
        cell_steps=cell_steps,
    )  # fmt: skip
    result = GpuResult(
        environment=environment.describe(_accelerator(device)),
        settings={"model": model, "flags": " ".join(flags)},
    )
    try:
        asyncio.run(GpuStages(plan, result, output, say).run(stages))
    except EXPECTED_FAILURES as error:
        say(str(error))
        raise typer.Exit(1) from None
    finally:
        for table in tables(result):
            console.print(table.to_rich())
    _write_model(result, output, say)
    raise typer.Exit(1 if result.crediting is not None and result.crediting.faults else 0)


def tables(result: GpuResult) -> list[Table]:
    """Everything that was measured."""
    found: list[Table] = []
    if result.grid_cells:
        found.append(_grid_table(result))
    if result.grid is not None:
        found.append(_fit_table(result.grid))
    if result.crediting is not None:
        crediting = result.crediting
        verdict = "; ".join(crediting.faults) or "every record carries the length that ran"
        row = (str(crediting.steps), str(crediting.changes), str(len(crediting.wrong_steps)), verdict)
        found.append(Table("crediting", ("steps", "after a change", "wrong", "verdict"), [row]))
    if result.kill is not None:
        found.append(_kill_table(result.kill))
    cells = [cell_stats(cell) for cell in result.closed_loop if cell.runs]
    if cells:
        controls = [table for cell in result.closed_loop if cell.runs and (table := control_table(cell))]
        found += [summary_table(cells), *(speed_table(cell) for cell in cells), *controls]
    return found


def _check(
    model: Model,
    directory: Path,
    device: str,
    stages: tuple[str, ...],
    flags: tuple[str, ...],
    say: Callable[[str], None],
    *,
    dry_run: bool,
) -> bool:
    """Whether the plan can be run; in a dry run all of it is printed, and a missing GPU is only said."""
    for line in versions():
        say(line)
    try:
        say(check_model(model))
        planned = plans.launches(model, directory, device=device, stages=stages, flags=flags)
        for launch in planned:
            check_flags(launch.setup.argv(launch.variant, 30000)[3:])
            if dry_run:
                say(f"# {launch.purpose}\n{launch.shell()}")
    except ValueError as error:
        say(str(error))
        return False
    faults = gpu_faults() if device == "cuda" else []
    for fault in faults:
        say(f"{'a run would need' if dry_run else 'missing'}: {fault}")
    say(f"{len(planned)} servers, one after the other; every flag is known to this SGLang")
    return dry_run or not faults


def _prepare(name: str, directory: Path) -> tuple[Model, str]:
    """The model and the device that it is for."""
    if name == "llama-8b":
        return write_llama_8b(directory), "cuda"
    prepared = models.prepare(name)
    if plans.ALGORITHM not in prepared.drafts:
        raise ValueError(f"model={name!r}: allowed are llama-8b and knob:SCALE")
    return prepared, "cpu"


def _chosen(name: str, wanted: list[str] | None, allowed: tuple[str, ...]) -> tuple[str, ...]:
    for value in wanted or ():
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)}")
    return tuple(value for value in allowed if not wanted or value in wanted)


def _accelerator(device: str) -> str:
    if device != "cuda":
        return "none"
    import torch  # noqa: PLC0415  (seconds)

    return str(torch.cuda.get_device_name())


def _write_model(result: GpuResult, output: Path, say: Callable[[str], None]) -> None:
    """The step-time model as a file of its own, for `turbospec replay --step-time`."""
    if result.grid is None:
        return
    path = output.with_name(output.stem + ".step-times.json")
    path.write_text(result.grid.model.model_dump_json(indent=2) + "\n", encoding="utf-8")
    say(f"step-time model for turbospec replay: {path}")


def _grid_table(result: GpuResult) -> Table:
    rows = [
        (
            str(cell.num_steps),
            str(cell.batch_size),
            f"{cell.median_context_tokens:.0f}",
            f"{cell.median_s * 1e3:.3f}",
            str(len(cell.seconds)),
        )
        for cell in result.grid_cells
        if cell.seconds
    ]
    return Table("step times", ("length", "batch", "context tokens", "median ms", "steps"), rows)


def _fit_table(grid: GridResult) -> Table:
    fits = {"model written": grid.model_error, "service's online fit": grid.online_error}
    rows = [(name, f"{e.median:.1%}", f"{e.highest:.1%}", str(e.cells)) for name, e in fits.items()]
    return Table("error against the grid", ("fit", "median", "highest", "cells"), rows)


def _kill_table(kill: KillResult) -> Table:
    rows = [
        ("tokens/s", f"{kill.tokens_per_s_before:.0f}", f"{kill.tokens_per_s_after:.0f}"),
        ("gap p50, ms", f"{kill.gap_p50_before_s * 1e3:.1f}", f"{kill.gap_p50_after_s * 1e3:.1f}"),
        ("gap max, ms", f"{kill.gap_max_before_s * 1e3:.1f}", f"{kill.gap_max_after_s * 1e3:.1f}"),
    ]
    return Table("the service is killed", ("measure", "before", "after"), rows)


if __name__ == "__main__":
    app()
