"""Token buckets: never more than promised, never less than earned, never more memory than asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_service.server.limits import REFUSALS_LOGGED_AT_ONCE, KeyedBuckets, LogLimit, TokenBucket

moments = st.lists(
    st.tuples(st.floats(0.0, 10.0, allow_nan=False), st.integers(0, 200)), min_size=1, max_size=60
)


@settings(deadline=None, max_examples=60)
@given(moments=moments, per_s=st.floats(0.1, 500.0), burst=st.integers(1, 300))
def test_no_window_lets_more_pass_than_burst_and_rate_allow(
    moments: list[tuple[float, int]], per_s: float, burst: int
) -> None:
    bucket = TokenBucket(per_s=per_s, burst=burst, now_s=0.0)
    now_s, passed = 0.0, []
    for pause_s, wanted in moments:
        now_s += pause_s
        granted = bucket.take(now_s, wanted)
        assert 0 <= granted <= min(wanted, burst)
        passed.append((now_s, granted))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            window_s = passed[last][0] - passed[first][0]
            total = sum(granted for _, granted in passed[first : last + 1])
            assert total <= burst + per_s * window_s + 1e-6


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(1, 200), per_s=st.integers(1, 100))
def test_who_stays_below_the_rate_is_never_refused(steps: int, per_s: int) -> None:
    bucket = TokenBucket(per_s=per_s, burst=2, now_s=0.0)
    assert all(bucket.take(step / per_s) == 1 for step in range(1, steps + 1))


def test_what_is_refused_costs_nothing_later() -> None:
    bucket = TokenBucket(per_s=1.0, burst=1, now_s=0.0)
    assert [bucket.take(0.0) for _ in range(100)] == [1] + [0] * 99
    assert bucket.take(1.0) == 1


def test_keys_have_buckets_of_their_own_and_are_bounded() -> None:
    buckets = KeyedBuckets(per_s=1.0, burst=1, keys_max=10)
    assert buckets.take("kept", 0.0) == 1
    for number in range(1_000):
        assert buckets.take(f"key-{number}", 0.0) == 1
        # In use, it is not the one that gives way.
        assert buckets.take("kept", 0.0) == 0
        assert len(buckets) <= 10
    assert buckets.take("key-0", 0.0) == 1, "forgotten, so it begins anew"


def test_a_log_that_is_flooded_says_how_much_was_left_out() -> None:
    limit = LogLimit(0.0)
    said = [fields for _ in range(1_000) if (fields := limit.due(0.0)) is not None]
    assert said == [{}] * REFUSALS_LOGGED_AT_ONCE
    assert limit.due(1.0) == {"suppressed": 1_000 - REFUSALS_LOGGED_AT_ONCE}
    assert limit.due(2.0) == {}


@pytest.mark.parametrize("wanted", [0, 1, 7])
def test_tokens_do_not_pile_up_while_nobody_asks(wanted: int) -> None:
    bucket = TokenBucket(per_s=1e6, burst=5, now_s=0.0)
    totals = [bucket.take(1e9, wanted) for _ in range(20)]
    assert sum(totals) <= 5
    assert all(later <= earlier for earlier, later in pairwise(totals))
