"""The policy against engines of known truth, in virtual time; see the simulator."""

from __future__ import annotations

from statistics import median

import pytest

from tests.unit.control_service.simulator import World, simulate
from tests.unit.control_service.worlds import MOVING, STEADY

SEEDS = (0, 1, 2)
# The product promises more of real engines; this is the floor for every single run.
STEADY_RATIO_MIN = 0.97
STEADY_MEDIAN_RATIO_MIN = 0.98
STEADY_SWITCHES_PER_1000_MAX = 2.0
MOVING_RATIO_MIN = 0.985
PROBE_SHARE_MAX = 0.06


@pytest.mark.parametrize("world", STEADY, ids=lambda world: world.name)
def test_steady_load_is_served_nearly_as_well_as_by_the_best_fixed_length(world: World) -> None:
    results = [simulate(world, seed) for seed in SEEDS]
    for result in results:
        assert result.ratio >= STEADY_RATIO_MIN, result.line()
        assert result.switches_per_1000 <= STEADY_SWITCHES_PER_1000_MAX, result.line()
        assert result.probe_steps <= PROBE_SHARE_MAX * result.steps, result.line()
    assert median(result.ratio for result in results) >= STEADY_MEDIAN_RATIO_MIN


@pytest.mark.parametrize("world", MOVING, ids=lambda world: world.name)
def test_moving_load_is_served_as_well_as_by_any_fixed_length(world: World) -> None:
    for seed in SEEDS:
        result = simulate(world, seed)
        assert result.ratio >= MOVING_RATIO_MIN, result.line()


def test_a_load_that_turns_good_at_length_0_is_noticed() -> None:
    """Length 0 yields no acceptance data, so it would be absorbing if it were not probed."""
    world = next(world for world in MOVING if world.name == "never pays, then pays")
    result = simulate(world)
    assert result.lengths[0] > 0.3 * result.steps, result.line()
    assert result.lengths[5] + result.lengths[3] > 0.2 * result.steps, result.line()
    assert result.ratio > 1.02, result.line()


def test_on_a_slow_engine_a_change_of_acceptance_pays_before_the_next_one() -> None:
    """Twenty seconds are 500 steps there: no back-off or doubt may outlive the load that it is of."""
    world = next(world for world in MOVING if world.name.startswith("slow"))
    results = [simulate(world, seed) for seed in SEEDS]
    assert all(result.ratio > 1.01 for result in results), [result.line() for result in results]


def test_later_drafts_that_turn_good_are_noticed_from_a_short_length() -> None:
    """A length sees nothing of drafts beyond it, and the few that the tour had were all rejected."""
    turned_s = 10.0

    def acceptance(now_s: float) -> tuple[float, ...]:
        return (0.26, 0.45, 0.5, 0.5, 0.5) if now_s < turned_s else (0.40, 0.8, 0.85, 0.85, 0.85)

    prices = {0: 1.0, 1: 1.12, 3: 1.28, 5: 2.1}
    world = World(
        "copies later",
        acceptance,
        lambda _, length, __: 0.01 * prices[length],
        lambda _: 1,
        candidates=tuple(prices),
        duration_s=40.0,
        # A thousand steps after the change.
        warm_up_s=turned_s + 12.0,
        noise=0.12,
    )
    results = [simulate(world, seed) for seed in range(12)]
    assert sum(result.ratio for result in results) / len(results) > 0.97, [r.line() for r in results]
