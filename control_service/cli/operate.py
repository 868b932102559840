"""What an operator may set on an engine, as written on the command line."""

from __future__ import annotations

from typing import Final

from control_service.cli.errors import usage_error
from control_service.core import mode_spelling
from control_service.core.policies import spelling
from control_service.core.types import Mode
from control_service.core.validation import InvalidFieldError
from turbospec.v1 import control_pb2

MODE_FORMS: Final = mode_spelling.FORMS
# As a shell offers them.
MODE_WORDS: Final = ("off", "shadow", "canary:10", "enforce")
POLICY_FORMS: Final = spelling.FORMS
_ON_THE_WIRE: Final = {
    Mode.OFF: control_pb2.MODE_OFF,
    Mode.SHADOW: control_pb2.MODE_SHADOW,
    Mode.CANARY: control_pb2.MODE_CANARY,
    Mode.ENFORCE: control_pb2.MODE_ENFORCE,
}


def parse_mode(text: str) -> tuple[control_pb2.Mode, int]:
    """Mode and canary per cent (0 for all but a canary). Raises `CliError`."""
    mode, canary_percent = mode_spelling.parse_mode(checked_mode("MODE", text))
    return _ON_THE_WIRE[mode], canary_percent


def checked_mode(option: str, text: str) -> str:
    """The text itself, if it spells a mode. Raises `CliError` that names the option."""
    try:
        mode_spelling.parse_mode(text)
    except InvalidFieldError as error:
        raise usage_error(option, text, MODE_FORMS) from error
    return text


def parse_policy(text: str) -> tuple[str, dict[str, str]]:
    """The policy's name and parameters, as the service takes them. Raises `CliError`."""
    try:
        return spelling.parse_policy(text)
    except InvalidFieldError as error:
        raise usage_error("POLICY", text, POLICY_FORMS) from error
