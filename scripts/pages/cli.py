"""docs/cli.md: every command of `turbospec` with its arguments and options."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Final

import typer

from control_service.cli.main import EXIT_CODES, app
from scripts.markdown import code, table

SERVICE: Final = "turbospec control"


def render() -> str:
    sections = "\n\n".join(_section(path, command) for path, command in commands())
    codes = "\n".join(f"- {text.strip().rstrip('.')}" for text in EXIT_CODES.partition(":")[2].split(";"))
    return f"""# Commands

`turbospec COMMAND --help` says the same. Commands that talk to a control service find that of the run in
`--run-dir` (`.run` of the current directory), else one that was started alone with `turbospec control`.

`--json` gives JSON on stdout; messages for people go to stderr then. `turbospec --install-completion` makes
the shell complete commands, options, ids of live engines, modes and policies.

Exit codes:

{codes}

{sections}
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with the words that run it."""
    yield from _below("turbospec", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    context = command.make_context(path, [], resilient_parsing=True)
    for name in sorted(command.list_commands(context)):
        yield from _below(f"{path} {name}", command.get_command(context, name))


def _section(path: str, command: Any) -> str:
    if path == SERVICE:
        return (
            f"## {path}\n\n{_sentences(command.help)}\n\nIts settings: [configuration.md](configuration.md)."
        )
    if command.context_settings.get("ignore_unknown_options"):
        # A program of ours takes the command's place; it knows its options.
        program = typer.main.get_command(_benchmark(path.rsplit(maxsplit=1)[-1]))
        below = getattr(program, "commands", {})
        pairs = [(path, program), *((f"{path} {name}", command) for name, command in below.items())]
        return "\n\n".join(_options(*pair) for pair in pairs)
    return _options(path, command)


def _benchmark(name: str) -> Any:
    module = importlib.import_module(f"benchmarks.{name}")
    return (
        module.app if hasattr(module, "app") else importlib.import_module(f"benchmarks.{name}.__main__").app
    )


def _options(path: str, command: Any) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    rows = [(code(name), meaning) for name, meaning in records if name != "--help"]
    options = f"\n\n{table(('argument or option', 'meaning'), rows)}" if rows else ""
    return f"## {path}\n\n{_sentences(command.help)}\n\n    {usage}{options}"


def _sentences(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))
