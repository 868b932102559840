"""`turbospec doctor`: what is wrong with a set-up, and how to fix it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from control_service.cli import complete, options
from control_service.cli.doctor import engine_side, engines, machine, ports, service, store, variables
from control_service.cli.doctor.finding import Finding, Findings, Level
from control_service.cli.doctor.subject import Subject, find_subject
from control_service.cli.errors import ExitCode
from control_service.cli.state import DEFAULT_RUN_DIR

# In the order in which a reader should mend things.
GROUPS: Final[dict[str, Callable[[Subject], Findings]]] = {
    "machine": machine.check,
    "sglang": engine_side.check,
    "settings": variables.check,
    "ports": ports.check,
    "service": service.check,
    "engines": engines.check,
    "store": store.check,
}
BAD_LEVELS: Final = (Level.PROBLEM, Level.WARNING)
MARK_CHARACTERS: Final = 9
_STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def doctor(
    control_address: Annotated[
        str | None,
        typer.Option(
            help="The service that must be there, unix:/path or host:port. Default: that of the run in "
            "--run-dir, or one at its default address."
        ),
    ] = None,
    run_dir: Annotated[
        Path, typer.Option(envvar="TURBOSPEC_UP_RUN_DIR", help="Where the run keeps its state and logs.")
    ] = Path(DEFAULT_RUN_DIR),
    device: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(options.DEVICES)}: what SGLang is to run on.",
            autocompletion=complete.one_of(options.DEVICES),
        ),
    ] = "auto",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="SGLang's port. Default: the run's, else 30000.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The service's. Default: the run's, else 9464; 0: not checked."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Only this group of checks; may be repeated: {', '.join(GROUPS)}.",
            autocompletion=complete.one_of(GROUPS),
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Check this set-up and say how to fix what is wrong.

    Changes nothing.

    Ends with 0 if there is no problem, with 6 if there is one (with --strict, also for a warning).
    """
    subject = find_subject(
        os.environ,
        run_dir.expanduser().absolute(),
        control_address,
        options.parse_choice("--device", device, options.DEVICES),
        (port, metrics_port),
    )
    findings = _examine(
        subject, [options.parse_choice("--only", name, tuple(GROUPS)) for name in only or GROUPS]
    )
    if as_json:
        print(json.dumps(_plain(findings), indent=2))
    else:
        _show(findings)
    worst = {finding.level for _, finding in findings}
    if Level.PROBLEM in worst or (strict and Level.WARNING in worst):
        raise typer.Exit(ExitCode.UNHEALTHY)


def _examine(subject: Subject, groups: list[str]) -> list[tuple[str, Finding]]:
    """Every finding with its group."""
    console = Console(stderr=True)
    findings: list[tuple[str, Finding]] = []
    with console.status("") as status:
        for group in groups:
            status.update(f"checking {group}")
            findings += [(group, finding) for finding in GROUPS[group](subject)]
    return findings


def _plain(findings: list[tuple[str, Finding]]) -> dict[str, object]:
    problems, warnings = (sum(found.level is level for _, found in findings) for level in BAD_LEVELS)
    return {
        "problems": problems,
        "warnings": warnings,
        "findings": [{"group": group, **finding._asdict()} for group, finding in findings],
    }


def _show(findings: list[tuple[str, Finding]]) -> None:
    console = Console(highlight=False, markup=False)
    before = ""
    for group, finding in findings:
        if group != before:
            console.print(Text(group, style="bold"))
        before = group
        mark = Text(f"  {finding.level:<{MARK_CHARACTERS}}", style=_STYLES[finding.level])
        # Lines are left whole, so that a path or a command can be copied.
        console.print(mark.append(f"{finding.check}: {finding.message}", style="default"), soft_wrap=True)
        if finding.fix:
            console.print(f"  {'':<{MARK_CHARACTERS}}-> {finding.fix}", soft_wrap=True)
    counts = ((sum(finding.level is level for _, finding in findings), level) for level in BAD_LEVELS)
    console.print("\n" + ", ".join(f"{count} {level}{'s' * (count != 1)}" for count, level in counts))
