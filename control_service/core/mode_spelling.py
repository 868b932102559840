"""A mode in one word, as operators write it."""

from __future__ import annotations

import re
from typing import Final

from control_service.core.types import Mode
from control_service.core.validation import InvalidFieldError

FORMS: Final = "off, shadow, canary:P (P per cent, 1 to 99), enforce"
_PLAIN: Final = {"off": Mode.OFF, "shadow": Mode.SHADOW, "enforce": Mode.ENFORCE}
_CANARY: Final = re.compile(r"canary:([1-9][0-9]?)")


def parse_mode(text: str) -> tuple[Mode, int]:
    """Mode and canary per cent, 0 for all but a canary. Raises InvalidFieldError.

    >>> parse_mode("canary:10")
    (<Mode.CANARY: 3>, 10)
    """
    if text in _PLAIN:
        return _PLAIN[text], 0
    canary = _CANARY.fullmatch(text)
    if canary is None:
        raise InvalidFieldError("mode", text, FORMS)
    return Mode.CANARY, int(canary[1])
