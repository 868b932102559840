"""`turbospec record`: the steps of live engines, as the service learns them, into a file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from control_service.cli import complete
from control_service.cli.admin_client import AdminClient
from control_service.cli.errors import CliError, ExitCode, usage_error
from control_service.cli.interrupt import sigterm_interrupts
from control_service.cli.state import DEFAULT_RUN_DIR, find_control_address
from control_service.server.wire import observed_step_from_proto, profile_from_proto
from control_service.store.step_trace import (
    SUFFIXES,
    StepTraceError,
    StepTraceWriter,
    TracedStep,
    create_step_trace,
)
from turbospec.v1 import admin_pb2

PLAIN_INTERVAL_S: Final = 10.0


def record(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help=f"A new file; its suffix says how: {', '.join(SUFFIXES)}.")
    ],
    engine: Annotated[
        str, typer.Option(help="Only this engine. Default: all.", autocompletion=complete.engines)
    ] = "",
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so many seconds.")] = None,
    control_address: Annotated[
        str | None,
        typer.Option(help="The service, unix:/path or host:port. Default: that of the run in --run-dir."),
    ] = None,
    run_dir: Annotated[
        Path, typer.Option(envvar="TURBOSPEC_UP_RUN_DIR", help="Where the run keeps its state and logs.")
    ] = Path(DEFAULT_RUN_DIR),
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Record the steps of live engines for replay.

    Until Ctrl-C, so many steps, or so many seconds.
    """
    address = find_control_address(control_address, run_dir.expanduser().absolute())
    recording = Recording(_create(out), steps)
    failure: CliError | None = None
    try:
        with sigterm_interrupts():
            try:
                _receive(recording, address, engine, seconds)
            except CliError as error:
                failure = error
            finally:
                recording.writer.close()
    except OSError as error:
        raise _unwritable(out, error) from error
    if failure is not None and recording.steps == 0:
        out.unlink()
    else:
        _report(recording, out, as_json)
    if failure is not None:
        raise failure


def _receive(recording: Recording, address: str, engine: str, seconds: float | None) -> None:
    """Until enough has come, the time is over, or somebody ends it."""
    with AdminClient(address) as service, _Progress(recording) as progress:
        try:
            for message in service.watch_steps(engine, seconds):
                recording.take(message)
                progress.show()
                if recording.is_full:
                    return
        except KeyboardInterrupt:
            return


class Recording:
    """What has come so far, and the file it goes to."""

    def __init__(self, writer: StepTraceWriter, steps_max: int | None) -> None:
        self.writer = writer
        self.steps = 0
        self.dropped_steps = 0
        self.engine_ids: set[str] = set()
        self.began_s = time.monotonic()
        self._steps_max = steps_max

    @property
    def is_full(self) -> bool:
        """Whether as many steps have come as were wanted."""
        return self.steps == self._steps_max

    @property
    def summary(self) -> str:
        """One line for people."""
        engines = f"{len(self.engine_ids)} engine{'s' if len(self.engine_ids) != 1 else ''}"
        lost = f", {self.dropped_steps} lost" if self.dropped_steps else ""
        return f"{self.steps} steps of {engines}, {time.monotonic() - self.began_s:.0f} s{lost}"

    def take(self, message: admin_pb2.WatchStepsResponse) -> None:
        """Write one message of the stream, up to as many steps as are wanted."""
        for engine in message.engines:
            self.writer.add_engine(profile_from_proto(engine))
        for step in message.steps:
            if self.is_full:
                break
            self.writer.add(TracedStep(step.engine_id, step.epoch, observed_step_from_proto(step)))
            self.engine_ids.add(step.engine_id)
            self.steps += 1
        if message.dropped_total != self.dropped_steps:
            self.dropped_steps = message.dropped_total
            self.writer.set_dropped(self.dropped_steps)
        self.writer.flush()


class _Progress:
    """A live line on a terminal, now and then a plain one elsewhere, on stderr."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._console = Console(stderr=True, highlight=False)
        self._status = (
            self._console.status("recording; waiting for steps") if self._console.is_terminal else None
        )
        self._shown_s = recording.began_s

    def __enter__(self) -> _Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self) -> None:
        if self._status is not None:
            self._status.update(f"recording; {self._recording.summary}; Ctrl-C ends it")
        elif time.monotonic() - self._shown_s > PLAIN_INTERVAL_S:
            self._shown_s = time.monotonic()
            print(self._recording.summary, file=sys.stderr, flush=True)


def _create(out: Path) -> StepTraceWriter:
    try:
        return create_step_trace(out)
    except StepTraceError as error:
        raise CliError(f"OUT: {error}", ExitCode.USAGE) from error
    except FileExistsError:
        raise usage_error("OUT", out, "a file that does not exist yet") from None
    except OSError as error:
        raise CliError(
            f"OUT is {str(out)!r}, which cannot be written: {error.strerror}", ExitCode.USAGE
        ) from error


def _unwritable(out: Path, error: OSError) -> CliError:
    return CliError(f"OUT is {str(out)!r}, which cannot be written: {error.strerror}", ExitCode.USAGE)


def _report(recording: Recording, out: Path, as_json: bool) -> None:
    if as_json:
        about = {
            "path": str(out),
            "steps": recording.steps,
            "engines": sorted(recording.engine_ids),
            "dropped_steps": recording.dropped_steps,
        }
        print(json.dumps(about))
    else:
        print(f"{out}: {recording.summary}")
