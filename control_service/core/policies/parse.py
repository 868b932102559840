"""Parameters as operators write them, checked. Everything here raises InvalidFieldError."""

from __future__ import annotations

from itertools import pairwise

from control_service.core.validation import MAX_BATCH, InvalidFieldError

MAX_TABLE_ENTRIES = 64
MAX_TEXT = 4_096
MAX_NUMBER = 1e9


def no_more(parameters: dict[str, str], policy: str, known: tuple[str, ...]) -> None:
    """Refuse what is left over once the policy has taken the parameters it knows."""
    if parameters:
        allowed = f"among {list(known)}" if known else "absent"
        raise InvalidFieldError("parameters", sorted(parameters), f"{allowed} for policy {policy}")


def parse_length(field: str, text: str, candidates: tuple[int, ...]) -> int:
    """One speculation length that the engine can run."""
    allowed = f"one of the candidates {candidates}"
    length = parse_integer(field, text, allowed)
    if length not in candidates:
        raise InvalidFieldError(field, text, allowed)
    return length


def parse_integer(field: str, text: str, allowed: str) -> int:
    """Plain decimal digits, few enough to be sane."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidFieldError(field, text, allowed)
    return int(text)


def parse_positive(field: str, text: str) -> float:
    """A positive number in plain notation."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < MAX_NUMBER:
        raise InvalidFieldError(field, text[:64], f"a number above 0 and below {MAX_NUMBER:g}")
    return number


def parse_table(field: str, text: str, candidates: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """`1:5,8:3,64:0` as (first batch size, length) pairs, ascending from batch size 1."""
    form = "pairs SIZE:LENGTH joined by commas, such as 1:5,8:3,64:0"
    entries = text.split(",")
    if not text or len(text) > MAX_TEXT or len(entries) > MAX_TABLE_ENTRIES:
        raise InvalidFieldError(field, text[:64], f"1 to {MAX_TABLE_ENTRIES} {form}")
    table = []
    for entry in entries:
        size_text, colon, length_text = entry.strip().partition(":")
        if not colon:
            raise InvalidFieldError(field, entry, form)
        size = parse_integer(field, size_text, f"a batch size of 1 to {MAX_BATCH} before each colon")
        table.append((size, parse_length(field, length_text, candidates)))
    sizes = [size for size, _ in table]
    check_sizes(field, sizes)
    return tuple(table)


def check_sizes(field: str, sizes: list[int]) -> None:
    """First sizes of ranges: from 1, so that every batch has its range, and strictly ascending."""
    ascending = all(low < high for low, high in pairwise(sizes))
    if not sizes or sizes[0] != 1 or not ascending or sizes[-1] > MAX_BATCH:
        raise InvalidFieldError(field, sizes, f"batch sizes strictly ascending from 1 to at most {MAX_BATCH}")
