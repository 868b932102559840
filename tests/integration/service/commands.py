"""The `turbospec` command as a process, for tests with a service in this one."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from typing import NamedTuple

TIMEOUT_S = 120.0


class Ended(NamedTuple):
    """How a command ended."""

    code: int | None
    out: str
    err: str


def clean_environment(**more: str) -> dict[str, str]:
    """Ours, without what a shell may have set of TurboSpec, and without its user's own service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TURBOSPEC_")}
    return {**kept, "XDG_RUNTIME_DIR": "/nowhere", **more}


async def start(*words: str, environment: Mapping[str, str] | None = None) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "control_service.cli.main", *words),
        stdout=PIPE,
        stderr=PIPE,
        env=dict(environment if environment is not None else clean_environment()),
    )


async def ended(process: Process) -> Ended:
    out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return Ended(process.returncode, out.decode(), err.decode())


async def run(*words: str, environment: Mapping[str, str] | None = None) -> Ended:
    return await ended(await start(*words, environment=environment))
