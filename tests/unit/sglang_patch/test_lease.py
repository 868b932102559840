"""Only an answer that fits the engine's present becomes a lease; everything else is refused by cause."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_patch.lease import CANARY_BLOCK_STEPS, Fence, Refused, applies, check
from turbospec.v1.control_pb2 import (
    MODE_CANARY,
    MODE_ENFORCE,
    MODE_OFF,
    MODE_SHADOW,
    DecideResponse,
    Tier,
)

FENCE = Fence(
    epoch=7,
    candidate_num_steps=frozenset({0, 1, 3, 5}),
    last_asked_step=100,
    newest_answered_step=99,
    newest_generation=4,
    newest_decision_id=40,
)


def answer(**changes: Any) -> DecideResponse:
    fields: dict[str, Any] = {
        "epoch": 7,
        "step_index": 100,
        "decision_id": 41,
        "model_generation": 4,
        "valid_for_steps": 2,
        "valid_for_ms": 10,
        "mode": MODE_ENFORCE,
        "tiers": [Tier(max_batch_size=4, num_steps=3), Tier(max_batch_size=8, num_steps=1)],
    }
    return DecideResponse(**{**fields, **changes})


def test_a_good_answer() -> None:
    lease = check(answer(), FENCE, now_ns=1_000)
    assert [lease.length_for(batch) for batch in (1, 4, 5, 8, 9)] == [3, 3, 1, 1, 0]
    assert (lease.first_step, lease.last_step, lease.expires_ns) == (100, 101, 1_000 + 10_000_000)


@pytest.mark.parametrize(
    ("cause", "changes"),
    [
        ("wrong_epoch", {"epoch": 6}),
        ("future_step", {"step_index": 101}),
        ("out_of_order", {"step_index": 98}),
        ("duplicate", {"decision_id": 40}),
        ("stale_generation", {"model_generation": 3}),
        ("unknown_length", {"tiers": [Tier(max_batch_size=4, num_steps=2)]}),
        ("unknown_length", {"tiers": [Tier(max_batch_size=4, num_steps=4_000_000_000)]}),
        ("malformed", {"valid_for_steps": 0}),
        ("malformed", {"valid_for_ms": 0}),
        ("malformed", {"valid_for_ms": 4_000_000_000}),
        ("malformed", {"mode": 0}),
        ("malformed", {"mode": 99}),
        ("malformed", {"mode": MODE_CANARY}),
        ("malformed", {"canary_percent": 10}),
        ("malformed", {"canary_percent": 101}),
        ("malformed", {"mode": MODE_CANARY, "canary_percent": 100}),
        ("malformed", {"tiers": []}),
        ("malformed", {"mode": MODE_OFF}),
        ("malformed", {"tiers": [Tier(max_batch_size=0, num_steps=1)]}),
        ("malformed", {"tiers": [Tier(max_batch_size=4), Tier(max_batch_size=4)]}),
        ("malformed", {"tiers": [Tier(max_batch_size=i + 1) for i in range(65)]}),
    ],
)
def test_refusals(cause: str, changes: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refusal:
        check(answer(**changes), FENCE, now_ns=0)
    assert refusal.value.cause == cause


@given(
    st.builds(
        DecideResponse,
        epoch=st.sampled_from([7, 7, 7, 8]),
        step_index=st.integers(0, 2**64 - 1) | st.integers(95, 105),
        decision_id=st.integers(0, 2**64 - 1) | st.integers(38, 45),
        model_generation=st.integers(0, 2**64 - 1) | st.integers(2, 6),
        valid_for_steps=st.integers(0, 2**32 - 1) | st.integers(0, 4),
        valid_for_ms=st.integers(0, 2**32 - 1) | st.integers(0, 4),
        mode=st.sampled_from([MODE_OFF, MODE_SHADOW, MODE_CANARY, MODE_ENFORCE, 0, 17]),
        canary_percent=st.integers(0, 120),
        tiers=st.lists(
            st.builds(Tier, max_batch_size=st.integers(0, 9), num_steps=st.integers(0, 6)), max_size=4
        ),
    ),
    st.integers(1, 4000),
)
def test_whatever_arrives_a_lease_stays_within_the_fence(message: DecideResponse, batch_size: int) -> None:
    try:
        lease = check(message, FENCE, now_ns=5)
    except Refused:
        return
    assert lease.length_for(batch_size) in FENCE.candidate_num_steps
    assert lease.model_generation >= FENCE.newest_generation
    assert FENCE.newest_answered_step <= lease.first_step <= lease.last_step
    assert lease.expires_ns > 5


@given(st.integers(1, 99))
def test_canary_takes_its_share_of_blocks_and_whole_blocks(percent: int) -> None:
    blocks = 2000
    applied = [applies(MODE_CANARY, percent, block * CANARY_BLOCK_STEPS) for block in range(blocks)]
    assert abs(sum(applied) / blocks - percent / 100) < 0.05
    first = applies(MODE_CANARY, percent, 0)
    assert all(applies(MODE_CANARY, percent, step) == first for step in range(CANARY_BLOCK_STEPS))


def test_mode_off_names_no_decision() -> None:
    lease = check(answer(mode=MODE_OFF, tiers=[], decision_id=0), FENCE, now_ns=0)
    assert (lease.mode, lease.decision_id, lease.length_for(1)) == (MODE_OFF, 0, 0)


def test_only_enforce_always_applies() -> None:
    assert applies(MODE_ENFORCE, 0, 100)
    assert not applies(MODE_SHADOW, 0, 100)
    assert not applies(MODE_OFF, 0, 100)
