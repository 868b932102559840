"""What an operator may set on an engine, as written on the command line."""

from __future__ import annotations

import re
from typing import Final

from control_service.cli.errors import usage_error
from control_service.core.policies import spelling
from control_service.core.validation import InvalidFieldError
from turbospec.v1 import control_pb2

MODE_FORMS: Final = "off, shadow, canary:P (P per cent, 1 to 99), enforce"
# As a shell offers them.
MODE_WORDS: Final = ("off", "shadow", "canary:10", "enforce")
POLICY_FORMS: Final = spelling.FORMS
_PLAIN_MODES: Final = {
    "off": control_pb2.MODE_OFF,
    "shadow": control_pb2.MODE_SHADOW,
    "enforce": control_pb2.MODE_ENFORCE,
}


def parse_mode(text: str) -> tuple[control_pb2.Mode, int]:
    """Mode and canary per cent (0 for all but a canary). Raises `CliError`."""
    if text in _PLAIN_MODES:
        return _PLAIN_MODES[text], 0
    canary = re.fullmatch(r"canary:(\d{1,2})", text)
    if canary is None or int(canary[1]) == 0:
        raise usage_error("MODE", text, MODE_FORMS)
    return control_pb2.MODE_CANARY, int(canary[1])


def parse_policy(text: str) -> tuple[str, dict[str, str]]:
    """The policy's name and parameters, as the service takes them. Raises `CliError`."""
    try:
        return spelling.parse_policy(text)
    except InvalidFieldError as error:
        raise usage_error("POLICY", text, POLICY_FORMS) from error
