"""Acceptance by position: censoring, hand-computed numbers, forgetting, and laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_service.core.acceptance import (
    FIRST_POSITION_PRIOR,
    FIRST_POSITION_STRENGTH,
    NEXT_POSITION_STRENGTH,
    AcceptanceModel,
)

STEPS = st.lists(
    st.integers(0, 5).flatmap(
        lambda length: st.tuples(
            st.just(length), st.lists(st.integers(0, length), min_size=0, max_size=8).map(tuple)
        )
    ),
    max_size=40,
)


def test_a_step_counts_every_position_it_reached_and_none_beyond() -> None:
    model = AcceptanceModel(5)
    # Three proposed: all three taken, one taken, none taken.
    model.observe(3, (3, 1, 0))
    counts = [(round(p.accepted, 9), round(p.rejected, 9)) for p in model.positions()]
    assert counts == [(2, 1), (1, 1), (1, 0), (0, 0), (0, 0)]
    assert model.observed_positions == 3


def test_a_full_accept_is_censored_not_a_rejection() -> None:
    model = AcceptanceModel(2)
    for _ in range(50):
        model.observe(1, (1,))
    assert model.positions()[1].rejected == 0.0
    assert model.table().rate[1] > 0.9


def test_expected_tokens_are_the_hand_computed_sum_of_survivals() -> None:
    model = AcceptanceModel(2)
    model.observe(2, (2, 1, 0, 2))
    first = (3 + FIRST_POSITION_STRENGTH * FIRST_POSITION_PRIOR) / (4 + FIRST_POSITION_STRENGTH)
    second = (2 + NEXT_POSITION_STRENGTH * first) / (3 + NEXT_POSITION_STRENGTH)
    table = model.table()
    assert table.rate == pytest.approx([first, second])
    assert table.tokens == pytest.approx([1.0, 1.0 + first, 1.0 + first + first * second])


def test_gradient_is_the_derivative_of_the_tokens() -> None:
    model = AcceptanceModel(4)
    model.observe(4, (4, 2, 1, 0, 3))
    table = model.table()
    for position, length in itertools.product(range(4), range(5)):
        moved = table.rate.copy()
        moved[position] += 1e-6
        tokens = 1.0 + np.cumprod(moved)[:length].sum()
        assert (tokens - table.tokens[length]) / 1e-6 == pytest.approx(
            table.gradient[length, position], abs=1e-4
        )


def test_standard_error_is_honest() -> None:
    """Over many repetitions the truth lies within two standard errors about as often as it should."""
    rng = np.random.default_rng(7)
    truth = 1.0 + 0.7 + 0.7**2 + 0.7**3
    inside = 0
    for _ in range(200):
        model = AcceptanceModel(3)
        for _ in range(60):
            accepted = tuple(min(int(n) - 1, 3) for n in rng.geometric(0.3, size=2))
            model.observe(3, accepted)
        table = model.table()
        inside += abs(table.tokens[3] - truth) < 2.0 * table.standard_error(3)
    assert inside >= 190


def test_a_changed_load_is_followed_within_tens_of_steps() -> None:
    model = AcceptanceModel(1)
    for _ in range(2_000):
        model.observe(1, (1, 1, 1, 0))
    for _ in range(40):
        model.observe(1, (0, 0, 0, 1))
    assert model.table().rate[0] == pytest.approx(0.25, abs=0.08)


def test_an_unobserved_position_keeps_its_rate_but_not_its_certainty() -> None:
    model = AcceptanceModel(1)
    for _ in range(500):
        model.observe(1, (1, 1, 0, 1))
    before = model.positions()[0]
    for _ in range(10_000):
        model.observe(0, (0, 0, 0, 0))
    model.observe(1, (1, 1, 0, 1))
    after = model.positions()[0]
    assert after.probability == pytest.approx(before.probability, abs=0.03)
    assert after.standard_error > 3.0 * before.standard_error


@settings(deadline=None)
@given(STEPS)
def test_laws_hold_for_any_history(history: list[tuple[int, tuple[int, ...]]]) -> None:
    model = AcceptanceModel(5)
    for length, accepted in history:
        model.observe(length, accepted)
    table = model.table()
    assert np.all((table.rate > 0.0) & (table.rate < 1.0))
    assert np.all((table.variance > 0.0) & np.isfinite(table.variance))
    survival = np.diff(table.tokens)
    assert np.all(np.diff(survival) <= 0.0)
    assert np.all((survival > 0.0) & (survival < 1.0))
    assert all(math.isfinite(table.standard_error(length)) for length in range(6))


@settings(deadline=None)
@given(STEPS, st.randoms())
def test_the_order_of_requests_within_a_step_does_not_matter(history, random) -> None:  # type: ignore[no-untyped-def]
    one, other = AcceptanceModel(5), AcceptanceModel(5)
    for length, accepted in history:
        one.observe(length, accepted)
        other.observe(length, tuple(random.sample(accepted, len(accepted))))
    assert one.positions() == other.positions()
