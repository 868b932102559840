"""Growth is found where it is, and not in noise that looks like it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.trend import slope_of

HOURS = np.arange(360) * 5 / 3_600


def held_noise(seed: int, spread: float) -> np.ndarray:
    """Memory as it moves: a level that is held for minutes, then another."""
    random = np.random.default_rng(seed)
    return np.repeat(random.normal(0.0, spread, 12), 30)


def test_a_straight_line_has_its_slope_and_no_error() -> None:
    slope = slope_of(list(HOURS), list(100 + 7 * HOURS))
    assert slope.value == pytest.approx(7.0)
    assert slope.standard_error == pytest.approx(0.0, abs=1e-9)
    assert slope.exceeds(6.9)
    assert not slope.exceeds(7.1)


def test_growth_is_found_behind_noise_that_holds() -> None:
    found = [slope_of(list(HOURS), list(30 * HOURS + held_noise(seed, 1.0))) for seed in range(50)]
    assert all(slope.exceeds(8.0) for slope in found)


def test_noise_that_holds_is_seldom_taken_for_growth() -> None:
    """The usual standard error takes every sample for news, and would cry wolf in a third of the runs."""
    found = [slope_of(list(HOURS), list(held_noise(seed, 1.0))) for seed in range(200)]
    assert sum(slope.exceeds(0.0) for slope in found) <= 24


@pytest.mark.parametrize(
    ("times", "values"), [([1.0] * 9, [1.0] * 9), ([1.0, 2.0], [1.0, 2.0]), (list(range(9)), [1.0])]
)
def test_what_has_no_slope_is_refused(times: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="must"):
        slope_of(times, values)
