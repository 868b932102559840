"""What is examined: the set-up that the options, the run directory and the environment amount to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from control_service.cli.state import RunState, find_control_address, read_state, service_alone

SOCKET_NAME: Final = "control.sock"
DEFAULT_PORT: Final = 30000
DEFAULT_METRICS_PORT: Final = 9464


@dataclass(frozen=True)
class Subject:
    """One set-up."""

    environment: Mapping[str, str]
    run_dir: Path
    run: RunState | None
    # Where the service is, or was last; None if nothing tells of one.
    control_address: str | None
    # Whether it must be there: it was named, or a run is going on.
    service_expected: bool
    device: str
    port: int
    metrics_port: int


def find_subject(
    environment: Mapping[str, str],
    run_dir: Path,
    control_address: str | None,
    device: str,
    ports: tuple[int | None, int | None],
) -> Subject:
    """Look where the other commands look. Raises `CliError` for what cannot be used."""
    run = read_state(run_dir)
    expected = bool(control_address) or (run is not None and bool(run.control_address))
    if expected:
        address: str | None = find_control_address(control_address, run_dir)
    else:
        # A socket that was left behind is worth a look too.
        left = run_dir / SOCKET_NAME
        address = f"unix:{left}" if left.exists() else service_alone()
    return Subject(
        environment=environment,
        run_dir=run_dir,
        run=run,
        control_address=address,
        service_expected=expected,
        device=device,
        port=_first(ports[0], run.endpoint if run else "", DEFAULT_PORT),
        metrics_port=_first(ports[1], run.metrics_url if run else "", DEFAULT_METRICS_PORT),
    )


def _first(given: int | None, url: str, default: int) -> int:
    """As told, else of the run, else where `turbospec up` would be."""
    if given is not None:
        return given
    return urlsplit(url).port or default
