"""One rate: what is kept, what wanes, and when the newest counts are another load."""

from __future__ import annotations

import doctest
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_service.core import rate_counter
from control_service.core.acceptance import CHANGE_Z
from control_service.core.rate_counter import (
    CHANGE_KEPT_COUNT,
    DEPARTURE_MIN_COUNT,
    IDLE_WINDOW_STEPS,
    KEPT_COUNT,
    LATELY_IDLE_STEPS,
    SLOW_WINDOW_STEPS,
    RateCounter,
)


def counted(steps: int, accepted: int, rejected: int) -> RateCounter:
    rate = RateCounter()
    for clock in range(1, steps + 1):
        rate.count(clock, accepted, rejected)
    return rate


def test_the_examples_of_its_documentation_are_true() -> None:
    assert doctest.testmod(rate_counter) == (0, 6)


def test_a_position_that_is_not_proposed_keeps_its_rate_and_loses_certainty() -> None:
    rate = counted(500, 3, 1)
    mean, variance = rate.posterior(0.75, 2.0)
    variances = [variance]
    for _ in range(8):
        for _ in range(int(IDLE_WINDOW_STEPS)):
            rate.skip()
        mean, variance = rate.posterior(0.75, 2.0)
        assert mean == pytest.approx(0.75)
        variances.append(variance)
    assert variances == sorted(variances)
    assert sum(rate.counts()) == pytest.approx(KEPT_COUNT)


def test_one_that_was_proposed_but_not_reached_wanes_no_faster_than_one_that_was() -> None:
    often, seldom = counted(1_000, 1, 0), RateCounter()
    for clock in range(10, 1_001, 10):
        seldom.count(clock, 1, 0)
    assert sum(seldom.counts()) == pytest.approx(sum(often.counts()) / 10.0, rel=0.02)
    assert sum(often.counts()) < SLOW_WINDOW_STEPS


def test_after_a_pause_the_newest_counts_stand_alone() -> None:
    """At length 0 probes are far apart: what the last one saw must not hide what this one sees."""
    rate, clock = RateCounter(), 0
    for _ in range(8):
        for _ in range(LATELY_IDLE_STEPS + 1):
            clock += 1
            rate.skip()
        clock += 1
        rate.count(clock, 2, 14)
    assert abs(rate.departure()) < 1.0
    for _ in range(LATELY_IDLE_STEPS + 1):
        rate.skip()
    rate.count(clock + LATELY_IDLE_STEPS + 2, 11, 5)
    assert rate.departure() > 4.0


def test_a_crowd_that_has_left_does_not_hide_what_the_few_that_stay_do() -> None:
    """Requests without a hit are rejected in every step; those that copy come here only after a rare miss."""
    rate, clock = counted(80, 1, 4), 80
    while rate.departure() < CHANGE_Z and clock < 200:
        clock += 2
        rate.count(clock, 1, 0)
    assert clock < 155


def test_too_few_counts_depart_from_nothing() -> None:
    rate = counted(100, 4, 0)
    for _ in range(LATELY_IDLE_STEPS + 1):
        rate.skip()
    rate.count(200, 0, int(DEPARTURE_MIN_COUNT) - 1)
    assert rate.departure() == 0.0
    assert RateCounter().departure() == 0.0


def test_beginning_anew_keeps_what_came_lately_and_not_much_of_it() -> None:
    rate = counted(2_000, 3, 1)
    for clock in range(2_001, 2_061):
        rate.count(clock, 0, 4)
    before = sum(rate.counts())
    share = rate.begin_anew(2_060)
    accepted, rejected = rate.counts()
    assert accepted + rejected == pytest.approx(CHANGE_KEPT_COUNT)
    assert share == pytest.approx(CHANGE_KEPT_COUNT / before)
    assert accepted / (accepted + rejected) < 0.2
    unseen = counted(2_000, 3, 1)
    for _ in range(LATELY_IDLE_STEPS + 1):
        unseen.skip()
    unseen.begin_anew(2_000 + LATELY_IDLE_STEPS + 1)
    assert sum(unseen.counts()) == 0.0


def test_where_acceptance_comes_in_stretches_the_estimate_follows_them() -> None:
    """Text that is copied, then text that is not: all that is remembered is the mean of both."""
    rng, rate, clock = random.Random(1), RateCounter(), 0
    errors, errors_of_all = [], []
    for stretch in range(20):
        chance = (0.05, 0.9)[stretch % 2]
        for _ in range(60):
            clock += 1
            accepted = int(rng.random() < chance)
            rate.count(clock, accepted, 1 - accepted)
        accepted_all, rejected_all = rate.counts()
        errors.append(abs(rate.posterior(0.5, 2.0)[0] - chance))
        errors_of_all.append(abs(accepted_all / (accepted_all + rejected_all) - chance))
    assert statistics.mean(errors[4:]) < 0.2
    assert statistics.mean(errors_of_all[4:]) > 0.35


def test_once_acceptance_is_steady_again_it_is_told_by_all_that_is_remembered() -> None:
    rng, rate = random.Random(1), RateCounter()
    for clock in range(1, 4_001):
        chance = (0.05, 0.9)[clock // 60 % 2] if clock < 1_200 else 0.6
        accepted = int(rng.random() < chance)
        rate.count(clock, accepted, 1 - accepted)
        if clock == 1_200:
            assert sum(rate.believed()) < 0.2 * sum(rate.counts())
    assert sum(rate.believed()) > 0.8 * sum(rate.counts())


@settings(deadline=None, derandomize=True, max_examples=40)
@given(chance=st.floats(0.02, 0.98), drafts=st.integers(1, 64), seed=st.integers(0, 999))
def test_a_steady_rate_is_told_by_most_of_what_is_remembered(chance: float, drafts: int, seed: int) -> None:
    rng, rate, shares = random.Random(seed), RateCounter(), []
    for clock in range(1, 2_001):
        accepted = sum(rng.random() < chance for _ in range(drafts))
        rate.count(clock, accepted, drafts - accepted)
        shares.append(sum(rate.believed()) / sum(rate.counts()))
    assert statistics.mean(shares[500:]) > 0.8


@settings(deadline=None, derandomize=True, max_examples=40)
@given(chance=st.floats(0.02, 0.98), drafts=st.integers(1, 64), seed=st.integers(0, 999))
def test_a_steady_rate_departs_seldom(chance: float, drafts: int, seed: int) -> None:
    """3.5 standard errors: by luck once in thousands of steps, whatever the batch."""
    rng, rate, beyond = random.Random(seed), RateCounter(), 0
    for clock in range(1, 1_001):
        accepted = sum(rng.random() < chance for _ in range(drafts))
        rate.count(clock, accepted, drafts - accepted)
        beyond += abs(rate.departure()) > 3.5
    assert beyond <= 20
