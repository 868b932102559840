"""`python -m control_service.replay`: the command `turbospec replay`."""

from __future__ import annotations

import sys

import typer

from control_service.cli.errors import CliError
from control_service.cli.replay import replay


def main() -> None:
    """Exit status as `turbospec` has them."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(replay)
    try:
        app(standalone_mode=True)
    except CliError as error:
        print(f"turbospec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
