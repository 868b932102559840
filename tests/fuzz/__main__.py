"""A million and more mutated messages: `python -m tests.fuzz`, or `make fuzz`.

Half of them are led by coverage (atheris), half are not (fast, and watched for growth). Each target runs in a
process of its own. Exit status 1 if anything was found; what was fed then lies below the directory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from tests.fuzz.blind import GROWTH_MAX_MIB, Report
from tests.fuzz.targets import TARGETS

# Costly messages get fewer: an envelope that passes its checks is a whole fit.
SHARES: Final = {"answers": 0.61, "requests": 0.35, "telemetry": 0.03, "envelopes": 0.01}
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED: Final = re.compile(r"cov: (\d+)")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(width=140)


@app.command(help=__doc__)
def main(
    messages: Annotated[int, typer.Option(min=100, help="in all, over all targets")] = 1_050_000,
    target: Annotated[list[str] | None, typer.Option(help="only this one; may be repeated")] = None,
    guided: Annotated[bool, typer.Option(help="the half that is led by coverage")] = True,
    blind: Annotated[bool, typer.Option(help="the half that is not")] = True,
    seed: Annotated[int, typer.Option()] = 1,
    directory: Annotated[Path, typer.Option(help="for corpora and findings")] = Path(".run/fuzz"),
) -> None:
    chosen = [name for name in TARGETS if not target or name in target]
    if not chosen or (target and len(chosen) != len(set(target))):
        raise typer.BadParameter(f"targets are {', '.join(TARGETS)}")
    directory.mkdir(parents=True, exist_ok=True)
    whole = sum(SHARES[name] for name in chosen)
    table = Table(
        "target", "how", "messages", "seconds", "a second", "lines covered", "grew, MiB", "findings"
    )
    total = found = 0
    for name in chosen:
        count = int(messages * SHARES[name] / whole / (guided + blind))
        rows = ([_guided(name, count, seed, directory)] if guided else []) + (
            [_blind(name, count, seed, directory)] if blind else []
        )
        for fed, findings, row in rows:
            total, found = total + fed, found + findings
            table.add_row(name, *row)
            console.print(f"{name}: {' '.join(row)}")
    console.print(table)
    console.print(f"{total} messages, {found} findings")
    sys.exit(1 if found else 0)


def _guided(name: str, count: int, seed: int, directory: Path) -> tuple[int, int, list[str]]:
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(count), str(seed)]
    begun_s = time.monotonic()
    done = subprocess.run(
        [*command, str(directory / f"corpus-{name}")], capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - begun_s
    output = done.stdout + done.stderr
    (directory / f"{name}-guided.log").write_text(output)
    executed = _EXECUTED.search(output)
    fed = int(executed.group(1)) if executed else 0
    covered = _COVERED.findall(output)
    findings = int(done.returncode != 0 or fed < count)
    if findings:
        console.print(output[-4_000:], markup=False)
    row = [
        "by coverage",
        str(fed),
        f"{seconds:.0f}",
        f"{fed / seconds:.0f}",
        covered[-1] if covered else "-",
        "-",
    ]
    return fed, findings, [*row, str(findings)]


def _blind(name: str, count: int, seed: int, directory: Path) -> tuple[int, int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.blind", name, str(count), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report = Report(**json.loads(done.stdout))
    for number, (where, (data, text)) in enumerate(report.findings.items()):
        (directory / f"{name}-blind-{number}").write_bytes(bytes.fromhex(data))
        console.print(f"[red]{name}: {where}[/]\n{text}", highlight=False)
    grew = report.grew_mib > GROWTH_MAX_MIB
    findings = len(report.findings) + grew
    speed = report.messages / report.seconds
    row = [
        "blindly",
        str(report.messages),
        f"{report.seconds:.0f}",
        f"{speed:.0f}",
        "-",
        f"{report.grew_mib:+.1f}",
    ]
    return report.messages, findings, [*row, str(findings)]


if __name__ == "__main__":
    app()
