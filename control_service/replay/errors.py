"""What replay says about an input it cannot use."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError


class ReplayInputError(ValueError):
    """An input cannot be used; the text names where, the field, its value and what is allowed."""


def input_error(where: str | Path, field: str, value: object, allowed: str) -> ReplayInputError:
    """One field that cannot be used."""
    return ReplayInputError(f"{where}: {field}: {_shown(value)} is not allowed; must be {allowed}")


def from_validation(where: str | Path, error: ValidationError) -> ReplayInputError:
    """The first complaint of pydantic, in our words' order."""
    item = error.errors()[0]
    field = ".".join(str(part) for part in item["loc"]) or "the whole"
    if item["type"] == "missing":
        return ReplayInputError(f"{where}: {field}: missing")
    return ReplayInputError(f"{where}: {field}: {_shown(item['input'])} is not allowed; {item['msg']}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
