"""A policy and its parameters on one line, as operators and benchmarks write it."""

from __future__ import annotations

import re
from typing import Final

from control_service.core.validation import InvalidFieldError

FORMS: Final = (
    "goodput, static:K (always K), schedule:table=SIZE:K,SIZE:K,... (by batch size), ema (SGLang's own rule;"
    " ema:config=JSON for another table), turbospec (the published algorithm; turbospec:acceptance=drafted)"
)
NEEDING_PARAMETERS: Final = ("schedule", "static")
_NAME = re.compile(r"[a-z_]+")
# A comma separates parameters only where another one follows: tables and JSON have commas too.
_SEPARATOR = re.compile(r",(?=[a-z_]+=)")


def parse_policy(text: str) -> tuple[str, dict[str, str]]:
    """`name`, `static:K` or `name:key=value,...` as name and parameters. Raises InvalidFieldError.

    >>> parse_policy("schedule:table=1:5,8:0")
    ('schedule', {'table': '1:5,8:0'})
    """
    name, colon, rest = text.partition(":")
    if not _NAME.fullmatch(name) or (not rest and (colon or name in NEEDING_PARAMETERS)):
        raise InvalidFieldError("policy", text, FORMS)
    if name == "static" and rest and "=" not in rest:
        return name, {"num_steps": rest}
    parameters: dict[str, str] = {}
    for part in _SEPARATOR.split(rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals or not _NAME.fullmatch(key) or key in parameters:
            raise InvalidFieldError("policy", text, FORMS)
        parameters[key] = value
    return name, parameters
