"""`python -m control_service`: run the control service."""

from __future__ import annotations

import sys

import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp

from control_service.server.app import serve
from control_service.server.errors import StartError
from control_service.server.logs import configure_logs
from control_service.settings import ServiceSettings
from control_service.store.open import without_password


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after a graceful stop, 2 for settings, addresses or files that cannot be used."""
    try:
        settings = CliApp.run(ServiceSettings, cli_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"])
            print(f"turbospec control: {field}: {item['msg']} (got {_shown(item['input'])})", file=sys.stderr)
        return 2
    configure_logs(settings.log_format, settings.log_level)
    try:
        uvloop.run(serve(settings))
    except StartError as error:
        print(f"turbospec control: {error}", file=sys.stderr)
        return 2
    return 0


def _shown(value: object) -> str:
    """A value as it may stand in a log: the password of a URL is left out."""
    return repr(without_password(value) if isinstance(value, str) and "://" in value else value)


if __name__ == "__main__":
    sys.exit(main())
