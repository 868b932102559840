"""What a shell offers when Tab is pressed. Never fails and never takes long: without an answer, nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import typer

from control_service.cli.admin_client import AdminClient
from control_service.cli.errors import CliError
from control_service.cli.state import DEFAULT_RUN_DIR, find_control_address

TIMEOUT_S: Final = 0.5


def engines(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the engines that the service knows."""
    given = ctx.params
    run_dir = Path(given.get("run_dir") or DEFAULT_RUN_DIR).expanduser().absolute()
    try:
        address = find_control_address(given.get("control_address"), run_dir)
        with AdminClient(address, timeout_s=TIMEOUT_S) as service:
            known = [status.profile.engine_id for status in service.list_engines().engines]
    except CliError:
        return []
    return _beginning_with(incomplete, known)


def policies(incomplete: str) -> list[str]:
    """Names of policies, with a colon where parameters must follow."""
    # numpy comes with them: only now.
    from control_service.core.policies.make import policy_names  # noqa: PLC0415
    from control_service.core.policies.spelling import NEEDING_PARAMETERS  # noqa: PLC0415

    names = policy_names()
    return _beginning_with(incomplete, [f"{name}:" if name in NEEDING_PARAMETERS else name for name in names])


def one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Fixed words."""
    known = tuple(words)

    def complete(incomplete: str) -> list[str]:
        return _beginning_with(incomplete, known)

    return complete


def _beginning_with(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
