"""`turbospec up`: the control service and SGLang under it, started, watched and stopped as one."""

from __future__ import annotations

import os
from typing import Final

from rich.console import Console

from control_service.cli.announce import announce
from control_service.cli.commands import (
    Speculation,
    choose_speculation,
    service_command,
    sglang_command,
    sglang_environment,
)
from control_service.cli.health import service_ready, sglang_ready
from control_service.cli.models import Model, resolve_model, run_maker
from control_service.cli.options import UpOptions
from control_service.cli.processes import Child, LogFollower
from control_service.cli.progress import StartProgress
from control_service.cli.state import RunState, claimed, remove_state
from control_service.cli.supervise import Member, StopRequest, Supervisor

SGLANG: Final = "SGLang"
SERVICE: Final = "control service"
SGLANG_STOP_GRACE_S: Final = 20.0
SERVICE_STOP_GRACE_S: Final = 10.0


def up(options: UpOptions, start_timeout_s: float, verbose: bool, as_json: bool) -> None:
    """Run until asked to stop. Raises `CliError` when SGLang, or what it needs to start, fails."""
    console = Console(stderr=True)
    model = resolve_model(options.model, run_maker)
    speculation = choose_speculation(options, model)
    with claimed(options.run_dir), StopRequest() as stop_request:
        members = _members(options, model, speculation)
        followers = [LogFollower(member.child, console.out) for member in members] if verbose else []

        def say(line: str) -> None:
            console.print(f"turbospec: {line}", highlight=False, markup=False, soft_wrap=True)

        def pump() -> None:
            for follower in followers:
                follower.pump()

        supervisor = Supervisor(members, stop_request, say)
        try:
            supervisor.start()
            with StartProgress(console, members) as progress:

                def on_poll() -> None:
                    pump()
                    progress.show()

                healthy = supervisor.wait_healthy(start_timeout_s, on_poll)
            if healthy:
                state = _run_state(options, model, speculation)
                state.write(options.run_dir)
                announce(state, options, as_json)
                supervisor.supervise(pump)
            say("stopping")
        finally:
            remove_state(options.run_dir)
            supervisor.stop()
            pump()
        say("stopped")


def _members(options: UpOptions, model: Model, speculation: Speculation) -> list[Member]:
    logs = options.run_dir / "logs"
    logs.mkdir(exist_ok=True)
    sglang = Child(
        SGLANG,
        sglang_command(options, model, speculation),
        sglang_environment(options, speculation),
        logs / "sglang.log",
    )
    members = [Member(sglang, lambda: sglang_ready(options.endpoint), True, SGLANG_STOP_GRACE_S)]
    if speculation.controlled:
        service = Child(SERVICE, service_command(options), os.environ, logs / "control.log")
        ready = lambda: service_ready(options.control_address)  # noqa: E731
        # Without the service SGLang goes on, unspeculated: it is started again while requests are served.
        members.insert(0, Member(service, ready, False, SERVICE_STOP_GRACE_S))
    return members


def _run_state(options: UpOptions, model: Model, speculation: Speculation) -> RunState:
    controlled = speculation.controlled
    return RunState(
        pid=os.getpid(),
        endpoint=options.endpoint,
        model=_served_name(options, model),
        algorithm=speculation.algorithm,
        candidates=list(options.candidates) if controlled else [],
        control_address=options.control_address if controlled else "",
        metrics_url=options.metrics_url if controlled else "",
        logs=str(options.run_dir / "logs"),
    )


def _served_name(options: UpOptions, model: Model) -> str:
    """The name that requests must use: the last one on SGLang's command line."""
    name = model.served_name
    words = options.sglang_flags
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--served-model-name":
            name = value if equals else "".join(words[position + 1 : position + 2])
    return name
