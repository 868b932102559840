"""A row of bars as text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
GAP: Final = " "


def sparkline(values: Iterable[float], top: float | None = None) -> str:
    """One character a value, from 0 to `top` (default: the largest value); NaN is a gap.

    >>> sparkline([0, 1, 2, float("nan"), 4])
    '▁▂▄ █'
    """
    rows = list(values)
    known = [value for value in rows if math.isfinite(value)]
    highest = max(known, default=0.0) if top is None else top
    return "".join(_bar(value, highest) if math.isfinite(value) else GAP for value in rows)


def _bar(value: float, highest: float) -> str:
    share = min(max(value / highest, 0.0), 1.0) if highest > 0 else 0.0
    return BARS[int(share * (len(BARS) - 1))]
