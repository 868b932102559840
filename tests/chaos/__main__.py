"""The table of faults: `python -m tests.chaos`, or `make chaos`.

Exit status 1 if an outcome is not what it must be: a request lost, an output different, a step unaccounted
for, control not back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import environment
from tests.chaos import table
from tests.chaos.engine import EngineStalled
from tests.chaos.experiment import Plan, run
from tests.chaos.fault import Fault
from tests.chaos.faults import BY_NAME, FAULTS
from tests.chaos.outcome import Outcome
from tests.chaos.verdict import failures

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True, width=200)


@app.command(help=__doc__)
def main(
    fault: Annotated[list[str] | None, typer.Option(help="only this one; may be repeated")] = None,
    engine: Annotated[
        bool, typer.Option(help="the faults of a real SGLang server too: minutes more")
    ] = False,
    stepped: Annotated[bool, typer.Option(help="the faults of the stepped engine")] = True,
    output: Annotated[Path | None, typer.Option(help="write the outcomes there as JSON")] = None,
    markdown: Annotated[bool, typer.Option(help="print the table as Markdown")] = False,
    names: Annotated[bool, typer.Option("--list", help="list the faults and end")] = False,
) -> None:
    if names:
        for known in FAULTS:
            console.print(f"[bold]{known.name}[/]: {known.does}")
        return
    chosen = _chosen(fault)
    outcomes: list[Outcome] = []
    complaints: list[str] = []
    for outcome in _outcomes(chosen, stepped=stepped, engine=engine):
        console.print("  " + " | ".join(table.rows([outcome])[0][1:]), highlight=False)
        wrong = failures(outcome, BY_NAME[outcome.fault])
        complaints += [f"{outcome.fault} ({outcome.engine}): {what}" for what in wrong]
        outcomes.append(outcome)
    if output is not None:
        table.write_json(output, outcomes, environment.describe("cpu"))
    if markdown:
        print(table.markdown(outcomes))
    else:
        Console(width=200).print(table.terminal(outcomes))
    for complaint in complaints:
        console.print(f"[red]{complaint}[/]", highlight=False)
    sys.exit(1 if complaints else 0)


def _chosen(wanted: Sequence[str] | None) -> tuple[Fault[Any], ...]:
    unknown = [name for name in wanted or () if name not in BY_NAME]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no fault; must be one of {', '.join(BY_NAME)}")
    return tuple(known for known in FAULTS if not wanted or known.name in wanted)


def _outcomes(chosen: Sequence[Fault[Any]], *, stepped: bool, engine: bool) -> Iterator[Outcome]:
    if stepped:
        for stage, faults in groupby(chosen, key=lambda fault: fault.stage):
            yield from _on_one_stage(stage, list(faults))
    if engine:
        # Imports torch, which the rest does not need.
        from tests.chaos.on_sglang import run_all  # noqa: PLC0415

        yield from run_all({fault.name for fault in chosen})


def _on_one_stage(stage: type[Any], faults: Sequence[Fault[Any]]) -> Iterator[Outcome]:
    """Faults share a stage until one leaves it unusable."""
    left = list(faults)
    while left:
        with stage() as here:
            while left:
                fault = left.pop(0)
                console.print(f"{fault.name}: {fault.does}")
                try:
                    outcome = run(fault, here, Plan())
                except EngineStalled as error:
                    console.print(f"[red]{fault.name}: {error}[/]")
                    sys.exit(1)
                yield outcome
                if outcome.until_control_steps is None:
                    break


if __name__ == "__main__":
    app()
