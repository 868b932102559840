"""The run directory: one run at a time, its logs, and where it is to be found."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import psutil

from control_service.cli.errors import CliError, ExitCode, usage_error
from control_service.server.address import Address, AddressError

STATE_FILE: Final = "state.json"
DEFAULT_RUN_DIR: Final = ".run"


@dataclass(frozen=True)
class RunState:
    """Where a healthy run can be reached. Written once everything is up, removed when it stops."""

    pid: int
    endpoint: str
    model: str
    algorithm: str
    candidates: list[int]
    # Empty where nothing is controlled.
    control_address: str
    metrics_url: str
    logs: str

    @property
    def page_url(self) -> str:
        """The page for operators; it is served beside the metrics."""
        return self.metrics_url.removesuffix("metrics")

    def write(self, run_dir: Path) -> None:
        partial = run_dir / f"{STATE_FILE}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(run_dir / STATE_FILE)


def read_state(run_dir: Path) -> RunState | None:
    """The run that lives in `run_dir`; None if there is none. Raises `CliError` if the file is unusable."""
    path = run_dir / STATE_FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {error}", ExitCode.UNREACHABLE) from error
    names = {field.name for field in fields(RunState)}
    if not isinstance(content, dict) or set(content) != names:
        raise CliError(f"{path} is not a run of this version of turbospec; remove it", ExitCode.UNREACHABLE)
    state = RunState(**content)
    return state if psutil.pid_exists(state.pid) else None


def remove_state(run_dir: Path) -> None:
    (run_dir / STATE_FILE).unlink(missing_ok=True)


def find_control_address(explicit: str | None, run_dir: Path) -> str:
    """The service to talk to. Raises `CliError`.

    As told; else the one of the run in `run_dir`; else one that was started alone and listens at its
    default address.
    """
    if explicit:
        return _checked(explicit)
    state = read_state(run_dir)
    if state is None:
        alone = service_alone()
        if alone is not None:
            return alone
        raise CliError(
            f"no run of `turbospec up` in {run_dir}; start one, or name it with --run-dir or the service "
            "with --control-address",
            ExitCode.UNREACHABLE,
        )
    if not state.control_address:
        raise CliError(f"the run in {run_dir} is not under control (--algorithm NONE)", ExitCode.UNREACHABLE)
    return state.control_address


def service_alone() -> str | None:
    """Where `turbospec control` listens unless it is told otherwise, if a socket is there."""
    from control_service.settings import default_socket_path  # noqa: PLC0415  (brings pydantic along)

    path = default_socket_path()
    return f"unix:{path}" if path.is_socket() else None


def _checked(address: str) -> str:
    try:
        return str(Address.parse(address))
    except AddressError as error:
        raise usage_error("--control-address", address, "unix:/absolute/path or host:port") from error


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Make `run_dir` and hold it for this process. Raises `CliError` if another run holds it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    handle = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CliError(
            f"--run-dir is {str(run_dir)!r}, where a run is going on; allowed: a directory that none uses",
            ExitCode.USAGE,
        ) from None
    try:
        yield
    finally:
        os.close(handle)
