"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One line a row; what would break out of a cell is escaped."""
    lines = [_line(titles), _line(["---"] * len(titles))]
    return "\n".join([*lines, *(_line([_cell(text) for text in row]) for row in rows)])


def code(text: str) -> str:
    """`text`, or a dash for an empty one."""
    return f"`{text}`" if text else "-"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
