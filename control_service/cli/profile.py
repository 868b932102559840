"""`turbospec profile`: every length at a few batch sizes on a live engine, so that its step times are known.

The service learns them as it learns all steps, and keeps them in its store.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from control_service.cli import complete
from control_service.cli.admin_client import AdminClient
from control_service.cli.errors import CliError, ExitCode, usage_error
from control_service.cli.interrupt import sigterm_interrupts
from control_service.cli.profile_load import Load, served_model
from control_service.cli.render import number
from control_service.cli.state import DEFAULT_RUN_DIR, find_control_address, read_state
from turbospec.v1 import admin_pb2, control_pb2

BATCHES_MAX: Final = 4
BATCH_FACTOR: Final = 4
# A length is held by the service for a cell's time and this much more: were we killed, the engine
# would get its policy back.
HOLD_SPARE_S: Final = 15.0


class Cell(NamedTuple):
    """Step times that were measured of one length at one batch size."""

    num_steps: int
    batch_size: int
    seconds: list[float]

    @property
    def median_ms(self) -> float:
        """NaN if there was no step."""
        return statistics.median(self.seconds) * 1e3 if self.seconds else float("nan")


def profile(
    engine: Annotated[
        str | None,
        typer.Argument(metavar="ENGINE", help="Default: the only one.", autocompletion=complete.engines),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The engine's OpenAI endpoint. Default: that of the run in --run-dir.")
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(help="Requests at a time, as in 1,4,16. Default: what fits the engine."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1_000, help="Steps of each length and batch size.")] = 12,
    cell_seconds: Annotated[
        float, typer.Option(min=0.1, help="At most so long for each length at each batch size.")
    ] = 5.0,
    control_address: Annotated[
        str | None,
        typer.Option(help="The service, unix:/path or host:port. Default: that of the run in --run-dir."),
    ] = None,
    run_dir: Annotated[
        Path, typer.Option(envvar="TURBOSPEC_UP_RUN_DIR", help="Where the run keeps its state and logs.")
    ] = Path(DEFAULT_RUN_DIR),
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Measure an engine's step times, so that it starts well.

    Every length is held for a few seconds at a few batch sizes, under load of its own making. The policy
    comes back afterwards, also if this command is killed.
    """
    run_dir = run_dir.expanduser().absolute()
    endpoint = url.rstrip("/") if url else _endpoint_of_run(run_dir)
    with AdminClient(find_control_address(control_address, run_dir)) as service, sigterm_interrupts():
        status = _engine(service, engine or service.only_engine())
        sizes = parse_batch_sizes(batch_sizes, status.profile.max_running_requests)
        model = served_model(endpoint)
        began_s = time.monotonic()
        with _policy_put_back(service, status):
            cells = [
                cell
                for size in sizes
                for cell in _cells_of(service, status, Load(endpoint, model, size), size, steps, cell_seconds)
            ]
        _show(cells, time.monotonic() - began_s, as_json)


def parse_batch_sizes(text: str | None, largest: int) -> tuple[int, ...]:
    """`"1,4,16"`; without a text, powers of four up to what the engine takes. Raises `CliError`."""
    if text is None:
        powers = [BATCH_FACTOR**power for power in range(BATCHES_MAX)]
        return tuple(size for size in powers if size <= largest)
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= largest for word in words):
        raise usage_error("--batch-sizes", text, f"sizes from 1 to {largest}, as in 1,4,16")
    return tuple(sorted({int(word) for word in words}))


def _endpoint_of_run(run_dir: Path) -> str:
    state = read_state(run_dir)
    if state is None:
        message = f"no run of `turbospec up` in {run_dir}; name the engine's endpoint with --url"
        raise CliError(message, ExitCode.UNREACHABLE)
    return state.endpoint


def _engine(service: AdminClient, engine_id: str) -> admin_pb2.EngineStatus:
    engines = {status.profile.engine_id: status for status in service.list_engines().engines}
    status = engines.get(engine_id)
    if status is None:
        raise usage_error("ENGINE", engine_id, ", ".join(sorted(engines)) or "none is known yet")
    if not status.connected:
        raise CliError(f"engine {engine_id!r} is not connected to the service", ExitCode.REFUSED)
    if status.mode != control_pb2.MODE_ENFORCE:
        message = (
            f"engine {engine_id!r} does not run what is decided; first: turbospec mode {engine_id} enforce"
        )
        raise CliError(message, ExitCode.REFUSED)
    return status


@contextmanager
def _policy_put_back(service: AdminClient, status: admin_pb2.EngineStatus) -> Iterator[None]:
    """However it ends, the engine is left with the policy that it had, for as long as it was to have it."""
    left_s = status.policy_hold_left_ms / 1e3
    began_s = time.monotonic()
    try:
        yield
    finally:
        hold_s = max(left_s - (time.monotonic() - began_s), 0.001) if left_s else 0.0
        service.set_policy(status.profile.engine_id, status.policy, status.policy_parameters, hold_s=hold_s)


def _cells_of(
    service: AdminClient, status: admin_pb2.EngineStatus, load: Load, size: int, steps: int, seconds: float
) -> Iterator[Cell]:
    """Every length under one load."""
    with load:
        for length in status.profile.candidate_num_steps:
            service.set_policy(
                status.profile.engine_id,
                "static",
                {"num_steps": str(length)},
                hold_s=seconds + HOLD_SPARE_S,
            )
            cell = Cell(length, size, [])
            for message in service.watch_steps(status.profile.engine_id, seconds):
                cell.seconds.extend(step.duration_s for step in message.steps if _counts(step, cell))
                if len(cell.seconds) >= steps or load.failure is not None:
                    break
            if load.failure is not None:
                raise load.failure
            print(
                f"length {length}, {size} at a time: {number(cell.median_ms)} ms, {len(cell.seconds)} steps",
                file=sys.stderr,
            )
            yield cell


def _counts(step: admin_pb2.ObservedStep, cell: Cell) -> bool:
    """Whether it is a settled step of the cell: neither length nor batch has just changed."""
    settled = step.num_steps == step.previous_num_steps and not any(step.first_step)
    return settled and step.num_steps == cell.num_steps and step.batch_size == cell.batch_size


def _show(cells: list[Cell], seconds: float, as_json: bool) -> None:
    if not any(cell.seconds for cell in cells):
        message = "no step was reported: is the endpoint that of the engine, and its telemetry on?"
        raise CliError(message, ExitCode.CHILD_FAILED)
    if as_json:
        rows = [
            {
                "num_steps": cell.num_steps,
                "batch_size": cell.batch_size,
                "steps": len(cell.seconds),
                "median_step_ms": cell.median_ms if cell.seconds else None,
            }
            for cell in cells
        ]
        print(json.dumps({"seconds": round(seconds, 3), "cells": rows}))
        return
    sizes = sorted({cell.batch_size for cell in cells})
    print(f"median ms a step (steps), measured in {seconds:.1f} s")
    table = Table()
    for title in ("length", *(f"{size} at a time" for size in sizes)):
        table.add_column(title, justify="right")
    for length in sorted({cell.num_steps for cell in cells}):
        row = {cell.batch_size: cell for cell in cells if cell.num_steps == length}
        table.add_row(str(length), *(f"{number(row[s].median_ms)} ({len(row[s].seconds)})" for s in sizes))
    Console(highlight=False, markup=False).print(table)
