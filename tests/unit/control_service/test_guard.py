"""Laws of the guard: when it trips, and for how long it holds then."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from control_service.core.guard import FORGET_STEPS, HOLD_MAX_STEPS, HOLD_STEPS, MARGIN_RATIO, Guard


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    batch=st.integers(1, 256),
    typical=st.floats(0.3, 2.0),
    scatter=st.floats(0.0, 0.5),
    seed=st.integers(0, 999),
)
def test_the_guard_trips_only_where_less_was_measured_than_without(
    batch: int, typical: float, scatter: float, seed: int
) -> None:
    """A step moves the measured ratio toward its own, so a trip needs one of the two below the margin."""
    rng, guard = random.Random(seed), Guard()
    for index in range(1, 600):
        tokens = max(batch, round(batch * 3.0 * math.exp(rng.gauss(0.0, scatter))))
        without_s = 0.01
        duration_s = tokens / batch * without_s / (typical * math.exp(rng.gauss(0.0, scatter)))
        before, trips = guard.measured_ratio, guard.trips_total
        guard.observe(
            step_index=index,
            batch_size=batch,
            tokens=tokens,
            duration_s=duration_s,
            expected_s=3.0 * without_s / typical,
            expected_s_without=without_s,
        )
        if guard.trips_total > trips:
            own = tokens * without_s / (batch * duration_s)
            assert min(before, own) < 1.0 - MARGIN_RATIO
    if scatter == 0.0:
        assert (guard.trips_total > 0) == (guard.trips_total > 0 and typical < 1.0 - MARGIN_RATIO)
    if typical < 0.6 and scatter < 0.1 and batch >= 16:
        assert guard.trips_total > 0


def test_the_guard_holds_twice_as_long_each_time_until_all_was_well_for_long() -> None:
    guard = Guard()
    index = 0

    def steps_held() -> int:
        """Lose until it trips; return for how long it holds then."""
        nonlocal index
        trips = guard.trips_total
        while guard.trips_total == trips:
            index += 1
            guard.observe(
                step_index=index,
                batch_size=64,
                tokens=64,
                duration_s=0.02,
                expected_s=0.02,
                expected_s_without=0.01,
            )
        held = 1
        while guard.holds(index + held):
            held += 1
        index += held - 1
        return held

    holds = [steps_held() for _ in range(12)]
    assert holds[:3] == [HOLD_STEPS, 2 * HOLD_STEPS, 4 * HOLD_STEPS]
    assert holds[-3:] == [HOLD_MAX_STEPS] * 3
    index += FORGET_STEPS
    assert steps_held() == HOLD_STEPS
