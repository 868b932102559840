"""What a decision was expected to gain or lose against its rivals."""

from __future__ import annotations

import math
from typing import NamedTuple

from control_service.core.types import Choice


class Margin(NamedTuple):
    """The chosen length against the best of the others; gains are ratios, below 0 if that one is better.

    gain_standard_errors: the gain in standard errors; 0 where there is neither.
    """

    runner_up_num_steps: int
    gain_ratio: float
    gain_standard_error_ratio: float
    gain_standard_errors: float


def margin_of(choice: Choice) -> Margin | None:
    """None where nothing was predicted, or there is only one length."""
    chosen = choice.prediction_for(choice.num_steps)
    others = [p for p in choice.predictions if p.num_steps != choice.num_steps]
    if chosen is None or not others:
        return None
    rival = max(others, key=lambda p: p.goodput_tokens_per_s)
    gain = math.log(chosen.goodput_tokens_per_s / rival.goodput_tokens_per_s)
    # One of the two is the best of all, and errors are of the difference to that one.
    error = max(chosen.gap_standard_error_ratio, rival.gap_standard_error_ratio)
    return Margin(rival.num_steps, math.expm1(gain), error, gain / error if error > 0.0 else 0.0)


def regret_ratio(goodput: float, best_goodput: float) -> float:
    """Share of the best goodput that a length loses."""
    if best_goodput <= 0.0 or not math.isfinite(best_goodput):
        return 0.0
    return max(0.0, 1.0 - goodput / best_goodput)
