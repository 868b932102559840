"""The commands of `turbospec`."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from control_service.cli import complete, operate, options
from control_service.cli.admin_client import AdminClient
from control_service.cli.channel import TLS_VARIABLES, TOKEN_VARIABLE
from control_service.cli.errors import CliError
from control_service.cli.models import DEFAULT_MODEL
from control_service.cli.plain import to_plain
from control_service.cli.profile import profile
from control_service.cli.record import record
from control_service.cli.render import decision_view, engines_view, mode_text
from control_service.cli.state import DEFAULT_RUN_DIR, find_control_address
from control_service.cli.top import top
from control_service.cli.up import up as run_up

EXIT_CODES = (
    "Exit codes: 0 done; 1 a bug; 2 an option or argument that cannot be used; 3 no control service "
    "answers; 4 the control service refused; 5 a program that was started has failed; 6 doctor found a "
    "problem; 130 interrupted."
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


# Commands that bring much along (numpy, the service) are imported when they are called, so that the others
# start at once.
_HEAVY = {"doctor": "control_service.cli.doctor.command", "replay": "control_service.cli.replay"}


class _Group(TyperGroup):
    """Turns a `CliError` of any command into its message and exit code; imports heavy commands late."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_HEAVY]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _HEAVY:
            return super().get_command(ctx, cmd_name)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(cmd_name)(getattr(importlib.import_module(_HEAVY[cmd_name]), cmd_name))
        return typer.main.get_command(alone)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CliError as error:
            print(f"turbospec: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=_Group,
    help="Closed-loop control of SGLang's speculation length.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(
    help="Benchmarks of engines under control, and of the control itself.", no_args_is_help=True
)
app.add_typer(bench_app, name="bench")

File = Path | None


@app.callback()
def access(
    token_file: Annotated[
        File, typer.Option(envvar=TOKEN_VARIABLE, help="Token of a service reached over TCP.")
    ] = None,
    tls_ca_file: Annotated[
        File, typer.Option(envvar=TLS_VARIABLES[0], help="Who signs the service's certificate.")
    ] = None,
    tls_cert_file: Annotated[File, typer.Option(envvar=TLS_VARIABLES[1], help="Our certificate.")] = None,
    tls_key_file: Annotated[File, typer.Option(envvar=TLS_VARIABLES[2], help="Its key.")] = None,
) -> None:
    """Closed-loop control of SGLang's speculation length."""
    # Kept where programs that a command starts find them too.
    files = (token_file, tls_ca_file, tls_cert_file, tls_key_file)
    for name, path in zip((TOKEN_VARIABLE, *TLS_VARIABLES), files, strict=True):
        if path is not None:
            os.environ[name] = str(path)


RunDir = Annotated[
    Path, typer.Option(envvar="TURBOSPEC_UP_RUN_DIR", help="Where the run keeps its state and logs.")
]
ControlAddress = Annotated[
    str | None,
    typer.Option(help="The service, unix:/path or host:port. Default: that of the run in --run-dir."),
]
EngineId = Annotated[
    str,
    typer.Argument(
        metavar="ENGINE",
        help="The engine's id, see `turbospec status`.",
        autocompletion=complete.engines,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command()
def up(
    sglang_flags: Annotated[list[str] | None, typer.Argument(metavar="-- SGLANG_FLAGS")] = None,
    model: Annotated[
        str, typer.Option(help="smollm2, knob[:SCALE], a directory, or a model's name.")
    ] = DEFAULT_MODEL,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(options.ALGORITHMS)}. Default: NGRAM, knob: STANDALONE.",
            autocompletion=complete.one_of(options.ALGORITHMS),
        ),
    ] = None,
    draft: Annotated[str | None, typer.Option(help="Draft model or head: a directory or a name.")] = None,
    candidates: Annotated[str, typer.Option(help="Lengths to choose from, 0 first.")] = "0,1,2,3,5",
    device: Annotated[
        str,
        typer.Option(help=f"{', '.join(options.DEVICES)}.", autocompletion=complete.one_of(options.DEVICES)),
    ] = "auto",
    host: Annotated[str, typer.Option(help="Where SGLang listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="SGLang's port; 0: any free one.")] = 30000,
    control_address: Annotated[
        str | None,
        typer.Option(help="Where the service listens, unix:/path or host:port. Default: in --run-dir."),
    ] = None,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The service's Prometheus endpoint; 0: any free one.")
    ] = 9464,
    run_dir: RunDir = Path(DEFAULT_RUN_DIR),
    mode: Annotated[
        str,
        typer.Option(
            help=f"{operate.MODE_FORMS}; of a new engine.",
            autocompletion=complete.one_of(operate.MODE_WORDS),
        ),
    ] = "enforce",
    start_timeout: Annotated[float, typer.Option(min=1, help="Seconds until healthy, at most.")] = 900,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the logs of both on stderr.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start SGLang under control, until Ctrl-C.

    Ctrl-C stops SGLang and the service in order; a second one at once.
    """
    run_dir = run_dir.expanduser().absolute()
    chosen = options.UpOptions(
        model=model,
        algorithm=options.parse_choice("--algorithm", algorithm, options.ALGORITHMS) if algorithm else None,
        draft=draft,
        candidates=options.parse_candidates(candidates),
        device=options.resolve_device(options.parse_choice("--device", device, options.DEVICES)),
        host=host,
        port=options.usable_port("--port", host, port),
        control_address=options.parse_control_address(control_address, run_dir),
        metrics_port=options.usable_port("--metrics-port", "127.0.0.1", metrics_port),
        run_dir=run_dir,
        mode=operate.checked_mode("--mode", mode),
        sglang_flags=options.parse_sglang_flags(sglang_flags or []),
    )
    run_up(chosen, start_timeout, verbose, as_json)


@app.command()
def status(
    control_address: ControlAddress = None, run_dir: RunDir = Path(DEFAULT_RUN_DIR), as_json: AsJson = False
) -> None:
    """Show the engines under control."""
    with _service(control_address, run_dir) as service:
        answer = service.list_engines()
    _show(answer, engines_view(answer), as_json)


@app.command()
def explain(
    engine: Annotated[
        str | None,
        typer.Argument(metavar="ENGINE", help="Default: the only one.", autocompletion=complete.engines),
    ] = None,
    decision: Annotated[int, typer.Option(min=0, help="A decision's id; 0: the newest.")] = 0,
    control_address: ControlAddress = None,
    run_dir: RunDir = Path(DEFAULT_RUN_DIR),
    as_json: AsJson = False,
) -> None:
    """Show why a length was chosen, and what others would lose."""
    with _service(control_address, run_dir) as service:
        answer = service.explain(engine or service.only_engine(), decision)
    _show(answer, decision_view(answer), as_json)


@app.command()
def mode(
    engine: EngineId,
    mode: Annotated[
        str,
        typer.Argument(
            metavar="MODE", help=operate.MODE_FORMS, autocompletion=complete.one_of(operate.MODE_WORDS)
        ),
    ],
    control_address: ControlAddress = None,
    run_dir: RunDir = Path(DEFAULT_RUN_DIR),
    as_json: AsJson = False,
) -> None:
    """Set how far the service's decisions apply to an engine."""
    wanted, canary_percent = operate.parse_mode(mode)
    with _service(control_address, run_dir) as service:
        answer = service.set_mode(engine, wanted, canary_percent)
    _show(answer, f"{engine}: mode {mode_text(answer.mode, answer.canary_percent)}", as_json)


@app.command()
def policy(
    engine: EngineId,
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help=operate.POLICY_FORMS, autocompletion=complete.policies)
    ],
    seconds: Annotated[
        float | None,
        typer.Option("--for", min=0.1, max=86_400, help="Seconds; then the policy before comes back."),
    ] = None,
    control_address: ControlAddress = None,
    run_dir: RunDir = Path(DEFAULT_RUN_DIR),
    as_json: AsJson = False,
) -> None:
    """Set how an engine's lengths are chosen."""
    name, parameters = operate.parse_policy(policy)
    with _service(control_address, run_dir) as service:
        answer = service.set_policy(engine, name, parameters, hold_s=seconds or 0.0)
    for_how_long = f" for {seconds:g} s" if seconds else ""
    _show(answer, f"{engine}: policy {answer.policy}{for_how_long}", as_json)


app.command()(top)
app.command()(record)
app.command()(profile)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Show the versions of TurboSpec and of what it works with."""
    found = {name: _version_of(name) for name in ("turbospec", "sglang", "torch", "grpcio")}
    if as_json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name} {number or 'not installed'}" for name, number in found.items()))


@app.command(context_settings=_PASS_ON)
def control(ctx: typer.Context) -> None:
    """Run the control service alone.

    Its own flags: turbospec control --help.
    """
    _become("control_service", ctx.args)


@app.command(context_settings=_PASS_ON)
def demo(ctx: typer.Context) -> None:
    """Serve, put a moving load on it, and compare.

    Its flags: turbospec demo --help.
    """
    _become("benchmarks.demo", ctx.args)


@bench_app.command(context_settings=_PASS_ON)
def engine(ctx: typer.Context) -> None:
    """Compare lengths on real SGLang servers.

    Its flags: turbospec bench engine --help.
    """
    _become("benchmarks.engine", ctx.args)


@bench_app.command(context_settings=_PASS_ON)
def core(ctx: typer.Context) -> None:
    """Time decisions and observed steps on one core.

    Its flags: turbospec bench core --help.
    """
    _become("benchmarks.core", ctx.args)


@bench_app.command(context_settings=_PASS_ON)
def service(ctx: typer.Context) -> None:
    """Find how many engines a service holds on one core; its flags: turbospec bench service --help."""
    _become("benchmarks.service", ctx.args)


def _service(control_address: str | None, run_dir: Path) -> AdminClient:
    return AdminClient(find_control_address(control_address, run_dir.expanduser().absolute()))


def _show(answer: Message, view: RenderableType, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_plain(answer), indent=2))
    else:
        Console(highlight=False, markup=False).print(view)


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Run a module of ours in this process's place, so that signals and exit status are its own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    app()
