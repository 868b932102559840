"""Reads traces and step-time models; every complaint names file, field, value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from control_service.replay.errors import ReplayInputError, from_validation, input_error
from control_service.replay.sources import RequestTrace
from control_service.replay.step_times import StepTimeFile

TOKENS_MAX = 1 << 20
_Entry = Annotated[int, Field(ge=1, le=TOKENS_MAX, strict=True)]
_ENTRIES = TypeAdapter(Annotated[tuple[_Entry, ...], Field(min_length=1, max_length=TOKENS_MAX)])


class _Line(BaseModel):
    """What every line has; everything else on it is a drafter's list."""

    model_config = ConfigDict(extra="allow")

    id: str | int
    prompt_tokens: Annotated[int, Field(ge=0, le=TOKENS_MAX, strict=True)]
    generated_tokens: Annotated[int, Field(ge=1, le=TOKENS_MAX, strict=True)]


class AcceptanceTrace:
    """Requests of one trace file, by drafter."""

    def __init__(self, name: str, by_drafter: dict[str, tuple[RequestTrace, ...]]) -> None:
        self.name = name
        self.by_drafter = by_drafter


def load_trace(path: Path) -> AcceptanceTrace:
    """An acceptance trace: JSON lines, see the README beside the shipped ones. Raises ReplayInputError.

    A request's output ends where `generated_tokens` or the drafter's list does, whichever is first
    (a drafter can have been measured on a generation of its own).
    """
    by_drafter: dict[str, list[RequestTrace]] = {}
    for number, text in enumerate(_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        line, lists = _line(where, text)
        if by_drafter and lists.keys() != by_drafter.keys():
            raise input_error(
                where, "drafters", sorted(lists), f"those of the first line, {sorted(by_drafter)}"
            )
        for drafter, entries in lists.items():
            request = RequestTrace(line.prompt_tokens, entries[: line.generated_tokens])
            by_drafter.setdefault(drafter, []).append(request)
    if not by_drafter:
        raise ReplayInputError(f"{path}: no requests; must be at least one line")
    return AcceptanceTrace(path.stem, {drafter: tuple(found) for drafter, found in by_drafter.items()})


def load_step_times(path: Path) -> StepTimeFile:
    """A step-time model. Raises ReplayInputError."""
    try:
        return StepTimeFile.model_validate_json(_text(path))
    except ValidationError as error:
        raise from_validation(path, error) from error


def _line(where: str, text: str) -> tuple[_Line, dict[str, tuple[int, ...]]]:
    try:
        line = _Line.model_validate_json(text)
    except ValidationError as error:
        raise from_validation(where, error) from error
    lists = {}
    for name, value in (line.model_extra or {}).items():
        try:
            lists[name] = _ENTRIES.validate_python(value)
        except ValidationError as error:
            field = ".".join([name, *(str(part) for part in error.errors()[0]["loc"])])
            shown = error.errors()[0]["input"]
            raise input_error(where, field, shown, "a list of whole numbers of at least 1") from error
    if not lists:
        raise input_error(where, "drafters", [], "at least one list of entries besides the request's fields")
    return line, lists


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ReplayInputError(f"{path}: cannot be read: {reason}") from error
