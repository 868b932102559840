"""Acceptance by position: censoring, hand-computed numbers, forgetting, and laws."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_service.core.acceptance import AcceptanceModel
from control_service.core.acceptance import _table as table_of

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
    assert counts == [(2, 1), (1, 1), (1, 0), (0, 0), (0, 0), (0, 0)]
    assert model.observed_positions == 3


def test_a_full_accept_is_censored_not_a_rejection() -> None:
    model = AcceptanceModel(2)
    for step in range(100):
        model.observe(1, (1,), (step > 0,))
    assert model.positions()[1].rejected == 0.0
    assert model.table().rate[1] > 0.9


def test_what_follows_a_full_accept_is_counted_apart() -> None:
    model = AcceptanceModel(3)
    model.observe(2, (2, 0, 1, 0), (True, True, False, False))
    counts = [(p.position, p.after_full_accept, p.accepted, p.rejected) for p in model.positions()]
    assert counts == [(1, False, 1, 1), (2, False, 1, 1), (3, False, 0, 0), (1, True, 1, 1)]


def test_expected_tokens_are_those_of_the_two_state_chain() -> None:
    """Walked, not solved: a long walk over both states with the table's own rates."""
    model = AcceptanceModel(3)
    for _ in range(40):
        model.observe(3, (3, 1, 0, 2, 0, 3), (True, False, False, False, False, True))
    table = model.table()
    rates = table.rate[:3]
    for length in (1, 2, 3):
        first = {state: table.first_rate(length, after_full_accept=state) for state in (False, True)}
        assert first[True] > first[False]
        share = 0.5
        for _ in range(200):
            everything = float(np.prod(rates[1:length]))
            share = (share * first[True] + (1.0 - share) * first[False]) * everything
        tail = 1.0 + float(np.cumprod(rates[1:length]).sum())
        tokens = 1.0 + tail * (share * first[True] + (1.0 - share) * first[False])
        assert table.tokens[length] == pytest.approx(tokens)


def test_without_runs_it_is_the_sum_of_survivals() -> None:
    """Where a full accept says nothing about the next step, both states are one."""
    rng = np.random.default_rng(3)
    model = AcceptanceModel(4)
    full = [False] * 64
    for _ in range(400):
        accepted = tuple(min(int(n) - 1, 4) for n in rng.geometric(0.4, size=64))
        model.observe(4, accepted, full)
        full = [count == 4 for count in accepted]
    assert model.table().tokens == pytest.approx(1.0 + np.cumsum(0.6 ** np.arange(5)) - 1.0, rel=0.02)


@pytest.mark.parametrize("learned_at", [2, 5, 7])
def test_what_is_learned_at_one_length_holds_for_shorter_ones(learned_at: int) -> None:
    """Runs of drafts that go on: the text decides where they end, not the length that is run."""
    rng = np.random.default_rng(11)
    # Tokens that unlimited speculation would commit from each place on: runs of geometric length.
    entries: list[int] = []
    while len(entries) < 60_000:
        run = int(rng.geometric(0.2)) if rng.random() < 0.12 else 1
        entries.extend(range(run, 0, -1))

    def walk(length: int, model: AcceptanceModel) -> float:
        """Tokens a step of sixteen requests that between them read the whole text."""
        requests = range(16)
        ends = [(request + 1) * len(entries) // 16 for request in requests]
        places = [0, *ends[:-1]]
        full, steps = [False] * 16, 0
        while all(place < end for place, end in zip(places, ends, strict=True)):
            tokens = [min(entries[place], length + 1) for place in places]
            model.observe(length, tuple(count - 1 for count in tokens), full)
            full = [count > length for count in tokens]
            places = [place + count for place, count in zip(places, tokens, strict=True)]
            steps += 16
        return (sum(places) - sum(ends[:-1])) / steps

    learned = AcceptanceModel(7)
    walk(learned_at, learned)
    for length in (1, 2, 3, 5):
        if length <= learned_at:
            truth = walk(length, AcceptanceModel(7))
            assert learned.table().tokens[length] == pytest.approx(truth, rel=0.03)


def test_runs_that_go_on_outweigh_the_few_drafts_that_once_failed_at_a_longer_length() -> None:
    """Once a text is copied, what follows a full accept says so; longer lengths need not be run for it."""
    rng = np.random.default_rng(5)
    model = AcceptanceModel(5)
    for accepted in (0, 0, 3, 0, 0, 0, 3, 0):
        model.observe(5, (accepted,), (False,))
    full = False
    for _ in range(400):
        # Runs of twenty tokens on average; half of the steps outside of one find the next.
        start = rng.random() < (0.95 if full else 0.5)
        accepted = min(int(rng.geometric(0.05)), 3) if start else 0
        model.observe(3, (accepted,), (full,))
        full = accepted == 3
    tokens = model.table().tokens
    assert tokens[3] > 1.2 * tokens[1]
    assert tokens[5] > 1.1 * tokens[3]


def test_an_engine_that_cannot_speculate_has_nothing_to_accept() -> None:
    model = AcceptanceModel(0)
    model.observe(0, (0, 0))
    assert model.positions() == ()
    assert model.table().tokens == pytest.approx([1.0])


@pytest.mark.parametrize("length_max", [1, 2, 4])
def test_gradient_is_the_derivative_of_the_tokens(length_max: int) -> None:
    model = AcceptanceModel(length_max)
    accepted = tuple(min(count, length_max) for count in (4, 2, 1, 0, 3))
    model.observe(length_max, accepted, (True, False, False, True, False))
    table = model.table()
    for place in range(length_max + 1):
        moved = table.rate.copy()
        moved[place] += 1e-6
        slope = (table_of(moved, table.variance).tokens - table.tokens) / 1e-6
        assert slope == pytest.approx(table.gradient[:, place], abs=1e-4)


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


def test_a_change_is_told_by_a_few_probes_between_many_steps_without_drafts() -> None:
    """At length 0 a short probe in a while is all there is."""
    model = AcceptanceModel(1)

    def probe(accepted: int) -> None:
        for _ in range(58):
            model.observe(0, (0,) * 8)
        for _ in range(2):
            model.observe(1, (1,) * accepted + (0,) * (8 - accepted))

    for _ in range(20):
        probe(1)
    assert model.table().rate[0] == pytest.approx(0.125, abs=0.02)
    for _ in range(3):
        probe(5)
    assert model.table().rate[0] == pytest.approx(0.625, abs=0.15)


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
    assert np.all((table.rate[:-1] > 0.0) & (table.rate[:-1] < 1.0))
    assert table.rate[-1] > 0.0
    assert np.all((table.variance > 0.0) & np.isfinite(table.variance))
    # Longer never commits less, and never more than was proposed.
    assert np.all(np.diff(table.tokens) >= 0.0)
    assert np.all((table.tokens >= 1.0) & (table.tokens <= np.arange(1.0, 7.0)))
    assert all(math.isfinite(table.standard_error(length)) for length in range(6))


@settings(deadline=None)
@given(STEPS, st.randoms())
def test_the_order_of_requests_within_a_step_does_not_matter(history, random) -> None:  # type: ignore[no-untyped-def]
    one, other = AcceptanceModel(5), AcceptanceModel(5)
    for length, accepted in history:
        one.observe(length, accepted)
        other.observe(length, tuple(random.sample(accepted, len(accepted))))
    assert one.positions() == other.positions()


def test_what_was_believed_of_hardly_reached_positions_does_not_outlive_a_change() -> None:
    """Where nothing is accepted the second position is hardly ever reached, and is thought to be as bad."""
    rng = random.Random(5)
    model = AcceptanceModel(3)

    def run(rate: float, length: int, steps: int) -> None:
        for _ in range(steps):
            model.observe(length, tuple(drawn(rng, rate, length) for _ in range(4)))

    run(0.15, 3, 300)
    assert model.table().rate[1] < 0.3
    run(0.15, 1, 300)
    known = model.changes_total
    run(0.85, 1, 60)
    assert model.changes_total > known
    assert model.table().rate[1] > 0.5


def test_a_steady_load_hardly_ever_looks_changed() -> None:
    for batch in (1, 8, 64):
        rng = random.Random(batch)
        model, full = AcceptanceModel(3), [False] * batch
        for _ in range(2_000):
            accepted = tuple(drawn(rng, 0.7, 3) for _ in range(batch))
            model.observe(3, accepted, full)
            full = [count == 3 for count in accepted]
        assert model.changes_total <= 2


def drawn(rng: random.Random, rate: float, length: int) -> int:
    """Accepted drafts of a request."""
    accepted = 0
    while accepted < length and rng.random() < rate:
        accepted += 1
    return accepted
