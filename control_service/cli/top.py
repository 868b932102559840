"""`turbospec top`: what the engines do, as they do it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer
from rich.console import Console
from rich.live import Live

from control_service.cli import complete, top_view
from control_service.cli.admin_client import AdminClient
from control_service.cli.errors import CliError, ExitCode, usage_error
from control_service.cli.interrupt import sigterm_interrupts
from control_service.cli.plain import to_plain
from control_service.cli.state import DEFAULT_RUN_DIR, find_control_address
from control_service.cli.top_history import Histories
from turbospec.v1 import admin_pb2

LOOK_TIMEOUT_S: Final = 2.0


class Look(NamedTuple):
    """What a service answered, or why it did not."""

    answer: admin_pb2.ListEnginesResponse | None
    problem: CliError | None
    address: str

    def plain(self) -> dict[str, object]:
        """As it goes into JSON; `error` is null if there was an answer."""
        about = {
            "at_s": round(time.time(), 3),
            "control_address": self.address,
            "error": str(self.problem) if self.problem is not None else None,
        }
        return {**about, **to_plain(self.answer or admin_pb2.ListEnginesResponse())}


class Watched:
    """A service that is looked at again and again, wherever a restart takes it."""

    def __init__(self, explicit: str | None, run_dir: Path, engine_id: str | None) -> None:
        self._explicit = explicit
        self._run_dir = run_dir
        self._engine_id = engine_id
        self._address = ""
        self._client: AdminClient | None = None

    def look(self) -> Look:
        """Ask once; after a failure the service is searched for and connected to anew."""
        try:
            if self._client is None:
                self._address = find_control_address(self._explicit, self._run_dir)
                self._client = AdminClient(self._address, timeout_s=LOOK_TIMEOUT_S)
            answer = self._client.list_engines()
        except CliError as problem:
            if problem.exit_code == ExitCode.USAGE:
                raise
            self.close()
            return Look(None, problem, self._address)
        if self._engine_id is not None:
            wanted = [status for status in answer.engines if status.profile.engine_id == self._engine_id]
            del answer.engines[:]
            answer.engines.extend(wanted)
        return Look(answer, None, self._address)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def top(
    engine: Annotated[
        str | None,
        typer.Argument(
            metavar="ENGINE", help="Only this one. Default: all.", autocompletion=complete.engines
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="One line an engine, and that is all.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=3_600, help="Seconds between two looks.")] = 1.0,
    control_address: Annotated[
        str | None,
        typer.Option(help="The service, unix:/path or host:port. Default: that of the run in --run-dir."),
    ] = None,
    run_dir: Annotated[
        Path, typer.Option(envvar="TURBOSPEC_UP_RUN_DIR", help="Where the run keeps its state and logs.")
    ] = Path(DEFAULT_RUN_DIR),
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout: an object a look, on a line of its own.")
    ] = False,
) -> None:
    """Watch the engines under control, live; Ctrl-C ends it.

    Where stdout is no terminal, each look prints a line for each engine.
    """
    watched = Watched(control_address, run_dir.expanduser().absolute(), engine)
    try:
        if once:
            _once(watched.look(), engine, as_json)
            return
        with sigterm_interrupts():
            try:
                _live(watched, interval, as_json)
            except KeyboardInterrupt:
                return
    finally:
        watched.close()


def _once(look: Look, engine: str | None, as_json: bool) -> None:
    if look.problem is not None:
        raise look.problem
    if engine is not None and look.answer is not None and not look.answer.engines:
        raise usage_error("ENGINE", engine, "an engine that `turbospec status` shows")
    if as_json:
        print(json.dumps(look.plain(), indent=2))
    else:
        _print_lines(look)


def _live(watched: Watched, interval_s: float, as_json: bool) -> None:
    console = Console(highlight=False, markup=False)
    if as_json or not console.is_terminal or console.is_dumb_terminal:
        while True:
            look = watched.look()
            if as_json:
                print(json.dumps(look.plain()), flush=True)
            else:
                _print_lines(look)
            time.sleep(interval_s)
    histories = Histories()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            look = watched.look()
            if look.answer is not None:
                histories.add(time.monotonic(), look.answer.engines)
            live.update(
                top_view.screen(look.answer, str(look.problem), look.address, histories, console.size.height),
                refresh=True,
            )
            time.sleep(interval_s)


def _print_lines(look: Look) -> None:
    if look.answer is None:
        print(top_view.problem_line(str(look.problem)), flush=True)
    elif not look.answer.engines:
        print(top_view.no_engine_line(), flush=True)
    else:
        print("\n".join(map(top_view.line, look.answer.engines)), flush=True)
