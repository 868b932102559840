"""Plain values as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

DIGITS = 5


def number(value: float) -> float | None:
    """`DIGITS` significant digits; None for what is not a number yet."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def counts(by_name: Mapping[str, int] | Mapping[int, int]) -> dict[str, Json]:
    """What was ever counted, most frequent first."""
    ordered = sorted(by_name.items(), key=lambda item: (-item[1], str(item[0])))
    return {str(name): count for name, count in ordered if count}
