"""Benchmark inside one SGLang server: our control against fixed lengths, by turns of a few decode steps.

Run as `python -m benchmarks.inside` or `turbospec bench inside`; `report FILE` shows saved results again. It
tells what control and its choices are worth on a machine where two servers of the same kind differ by some
percent, and leaves to `bench engine` what needs a server of its own: no drafter, SGLang's adaptive.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field
from rich.console import Console

from benchmarks import environment, models
from benchmarks.arms import OURS, VARIABLE, ArmPlan, Slice, Switch
from benchmarks.engine import (
    EXPECTED_FAILURES,
    AlgorithmOption,
    ClientsOption,
    LengthsOption,
    LoadOption,
    ModelOption,
    check_algorithms,
    parse_numbers,
)
from benchmarks.load import LoadGenerator
from benchmarks.report import Table, cell_name, report_console
from benchmarks.results import CellKey, Environment, Record
from benchmarks.servers import ServerSet, Setup, control_session, reset_server
from benchmarks.stats import Spread
from benchmarks.variants import Variant, VariantKind
from benchmarks.workload import LoadKind, prompts

FORMAT_VERSION = 1
LAUNCHER = "benchmarks.launch"
# Sweeps in a row are taken together into so many groups: what differs between them is the error.
GROUPS = 10

app = typer.Typer(add_completion=False, help=__doc__)


class InsideCell(CellKey):
    """What was measured of it on one server."""

    start: int
    slices: list[Slice] = Field(default_factory=list)


class InsideResult(Record):
    """What a run leaves behind."""

    format_version: int = FORMAT_VERSION
    environment: Environment
    settings: dict[str, str]
    cells: list[InsideCell] = Field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write to `path`."""
        path.write_text(self.model_dump_json(), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run; times in seconds."""

    lengths: tuple[int, ...]
    clients: tuple[int, ...]
    starts: int
    slice_steps: int
    seconds: float
    learn_s: float
    seed: int


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    *,
    model: ModelOption = None,
    algorithm: AlgorithmOption = None,
    load: LoadOption = None,
    clients: ClientsOption = "1,4,8",
    lengths: LengthsOption = "1,3,5",
    starts: Annotated[int, typer.Option(min=1, help="Times the server is started.")] = 1,
    slice_steps: Annotated[
        int, typer.Option("--slice", min=1, help="Decode steps that count until the next arm has its turn.")
    ] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Of a cell.")] = 120.0,
    learn: Annotated[
        float, typer.Option(min=0, help="Seconds of control before a cell, with other prompts.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Of prompts and orders.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="JSON results. Default: bench-inside-TIME.json.")
    ] = None,
) -> None:
    """Start a server for every model and algorithm, run every cell, print the table. On a CPU only."""
    if context.invoked_subcommand:
        return
    console = report_console()
    try:
        plan = Plan(
            lengths=parse_numbers("lengths", lengths),
            clients=parse_numbers("clients", clients),
            starts=starts,
            slice_steps=slice_steps,
            seconds=seconds,
            learn_s=learn,
            seed=seed,
        )
        servers = [
            (prepared, name, tuple(load or prepared.default_loads))
            for prepared in [models.prepare(name) for name in model or ["knob:0.02"]]
            for name in check_algorithms(prepared, algorithm)
        ]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise typer.Exit(1) from error
    target = output or Path(f"bench-inside-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json")
    settings = {name: str(getattr(plan, name)) for name in Plan.__dataclass_fields__}
    result = InsideResult(environment=environment.describe("cpu"), settings=settings)
    try:
        for start in range(starts):
            for prepared, name, loads in servers:
                asyncio.run(_run_server(plan, result, target, prepared, name, loads, start, console))
    except KeyboardInterrupt:
        console.print("interrupted: the server is stopped, what was measured is saved")
        raise typer.Exit(130) from None
    except EXPECTED_FAILURES as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
    finally:
        if result.cells:
            print_report(result, console)
            console.print(f"results: {target}")


@app.command()
def report(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Show saved results."""
    print_report(InsideResult.model_validate_json(file.read_text(encoding="utf-8")), report_console())


async def _run_server(
    plan: Plan,
    result: InsideResult,
    target: Path,
    model: models.Model,
    algorithm: str,
    loads: Sequence[LoadKind],
    start: int,
    console: Console,
) -> None:
    """All cells of one server."""
    directory = target.with_suffix(".logs") / f"{model.name.replace(':', '-')}-{algorithm.lower()}-{start}"
    directory.mkdir(parents=True, exist_ok=True)
    arm_plan = ArmPlan(
        lengths=plan.lengths,
        slice_steps=plan.slice_steps,
        seed=plan.seed + start,
        switch=(directory / "switch").absolute(),
        log=(directory / "slices.jsonl").absolute(),
        service=str(directory / "control.ready"),
    )
    arm_plan.log.unlink(missing_ok=True)
    switch = Switch(arm_plan.switch)
    switch.cell = 0
    setup = Setup(
        model=model,
        algorithm=algorithm,
        lengths=plan.lengths,
        device="cpu",
        directory=directory,
        launcher=LAUNCHER,
        environment={VARIABLE: arm_plan.model_dump_json()},
    )
    console.print(f"{model.name} {algorithm}: starting", highlight=False)
    async with (
        ServerSet(setup, [Variant(VariantKind.TURBOSPEC)], 1) as servers,
        control_session() as session,
    ):
        servers.share_core()
        (server,) = servers.servers
        mine: dict[int, InsideCell] = {}
        for load in loads:
            for clients in plan.clients:
                cell = InsideCell(
                    model=model.name, algorithm=algorithm, load=load, clients=clients, start=start
                )
                await reset_server(session, server.base_url)
                source = prompts(load, f"{plan.seed}/{load}/{clients}/inside/{start}", model.vocabulary_size)
                async with LoadGenerator(server.base_url, source) as generator:
                    generator.resize(clients)
                    await generator.run_for(plan.learn_s)
                    number = len(mine) + 1
                    switch.cell = number
                    await generator.run_for(plan.seconds)
                    switch.cell = 0
                mine[number] = cell
                result.cells.append(cell)
                _collect(arm_plan.log, mine)
                result.save(target)
                console.print(f"{cell_name(cell)}: {_summary(cell)}", highlight=False)


def _collect(log: Path, cells: dict[int, InsideCell]) -> None:
    """Give every cell the slices that are its own."""
    for cell in cells.values():
        cell.slices = []
    for line in log.read_text(encoding="utf-8").splitlines():
        slice_ = Slice.model_validate(json.loads(line))
        if slice_.cell in cells:
            cells[slice_.cell].slices.append(slice_)


def goodput(slices: Iterable[Slice]) -> float:
    """Tokens per second of decode steps; 0 if there are none."""
    steps = [one for slice_ in slices for one in slice_.steps]
    seconds = sum(one.seconds for one in steps)
    return sum(one.tokens for one in steps) / seconds if seconds else 0.0


def evened(cell: InsideCell) -> list[Slice]:
    """The cell's slices with every step's tokens replaced by the mean of all steps like it.

    What a step of one batch size and length commits does not depend on who chose the length: arms that ran
    the same length then differ by their time alone, and not by the luck of the text.
    """
    tokens: dict[tuple[int, int], float] = defaultdict(float)
    count: dict[tuple[int, int], int] = defaultdict(int)
    for slice_ in cell.slices:
        for one in slice_.steps:
            tokens[one.batch_size, one.num_steps] += one.tokens
            count[one.batch_size, one.num_steps] += one.steps
    mean = {key: tokens[key] / count[key] for key in count}
    return [
        slice_.model_copy(
            update={
                "steps": [
                    one.model_copy(update={"tokens": one.steps * mean[one.batch_size, one.num_steps]})
                    for one in slice_.steps
                ]
            }
        )
        for slice_ in cell.slices
    ]


def ratio(slices: Sequence[Slice], ours: str, other: str) -> Spread | None:
    """Goodput of one arm over another's, with the error that groups of sweeps show (Student's t)."""
    sweeps = sorted({slice_.sweep for slice_ in slices})
    groups = min(GROUPS, len(sweeps))
    if groups < 2:
        return None
    place = {sweep: index * groups // len(sweeps) for index, sweep in enumerate(sweeps)}
    logs = []
    for group in range(groups):
        both = [
            goodput(one for one in slices if one.arm == arm and place[one.sweep] == group)
            for arm in (ours, other)
        ]
        if all(both):
            logs.append(math.log(both[0] / both[1]))
    spread = Spread.of_starts(logs)
    whole = [goodput(one for one in slices if one.arm == arm) for arm in (ours, other)]
    if spread is None or not all(whole):
        return None
    reach = spread.high - spread.middle
    middle = whole[0] / whole[1]
    return Spread(middle, middle * math.exp(-reach), middle * math.exp(reach), len(sweeps))


def best_fixed(slices: Sequence[Slice]) -> str | None:
    """The fixed arm with the highest goodput."""
    arms = {one.arm for one in slices if one.arm != OURS}
    return max(arms, key=lambda arm: goodput(one for one in slices if one.arm == arm), default=None)


def table(result: InsideResult) -> Table:
    """One line per cell; several starts are averaged."""
    columns = (
        "cell",
        "best fixed",
        "tok/s of its decode steps",
        "turbospec / best fixed",
        "the same, texts evened out",
        "share of our steps by length",
        "sweeps",
    )
    by_name: dict[str, list[InsideCell]] = defaultdict(list)
    for cell in result.cells:
        if cell.slices:
            by_name[cell_name(cell)].append(cell)
    rows = []
    for name, cells in by_name.items():
        # Sweeps of another start have other numbers, so that starts are as one long run.
        slices = _joined(cells, lambda cell: cell.slices)
        best = best_fixed(_joined(cells, evened))
        if best is None:
            continue
        rows.append(
            (
                name,
                best,
                f"{goodput(one for one in slices if one.arm == best):.1f}",
                _shown(ratio(slices, OURS, best)),
                _shown(ratio(_joined(cells, evened), OURS, best)),
                _shares(slices),
                str(len({one.sweep for one in slices})),
            )
        )
    return Table("inside one server: goodput of decode steps", columns, rows)


def print_report(result: InsideResult, console: Console) -> None:
    """The table, and what it says."""
    env = result.environment
    console.print(
        f"{env.started_at}, commit {env.git_commit}: {env.cpu_model}, {env.cores} cores", markup=False
    )
    console.print(", ".join(f"{name}={value}" for name, value in result.settings.items()), markup=False)
    console.print(table(result).to_rich())
    console.print(
        "Tokens that clients get, over the seconds from a decode step's launch to the next launch. "
        "Intervals: 95 % confidence over groups of sweeps; in a sweep every arm has one slice.",
        style="dim",
    )


def _joined(cells: Sequence[InsideCell], slices: Callable[[InsideCell], Sequence[Slice]]) -> list[Slice]:
    joined = []
    first = 0
    for cell in cells:
        mine = slices(cell)
        joined += [one.model_copy(update={"sweep": one.sweep + first}) for one in mine]
        first += max(one.sweep for one in mine)
    return joined


def _summary(cell: InsideCell) -> str:
    arms = sorted({one.arm for one in cell.slices})
    return ", ".join(f"{arm} {goodput(s for s in cell.slices if s.arm == arm):.1f}" for arm in arms)


def _shown(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.middle:.3f} [{spread.low:.3f}..{spread.high:.3f}]"


def _shares(slices: Sequence[Slice]) -> str:
    steps: dict[int, int] = defaultdict(int)
    for slice_ in slices:
        if slice_.arm == OURS:
            for one in slice_.steps:
                steps[one.num_steps] += one.steps
    total = sum(steps.values())
    return ", ".join(f"{length}: {count / total:.0%}" for length, count in sorted(steps.items()))


if __name__ == "__main__":
    app()
