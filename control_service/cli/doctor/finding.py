"""What a check says."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    # It works, but not as it should, or something could not be checked.
    WARNING = "warning"
    # It does not work.
    PROBLEM = "problem"


class Finding(NamedTuple):
    """One check's result; `fix` says what to do, and is empty where nothing is to be done."""

    level: Level
    check: str
    message: str
    fix: str = ""


Findings: TypeAlias = Iterator[Finding]


def ok(check: str, message: str) -> Finding:
    return Finding(Level.OK, check, message)


def warning(check: str, message: str, fix: str) -> Finding:
    return Finding(Level.WARNING, check, message, fix)


def problem(check: str, message: str, fix: str) -> Finding:
    return Finding(Level.PROBLEM, check, message, fix)
