"""The inter-token-latency target: the best length among those whose steps are short enough."""

from __future__ import annotations

import pytest

from control_service.core.goodput import GoodputPolicy
from control_service.core.policies.make import make_policy
from control_service.core.session import EngineSession
from control_service.core.validation import InvalidFieldError
from tests.unit.control_service.factories import observation, profile, query
from tests.unit.control_service.test_session import session

STEP_S = {0: 0.010, 1: 0.012, 2: 0.014, 3: 0.016, 5: 0.020}


def settle(target: EngineSession, steps: int = 300) -> int:
    """Serve an engine that accepts nearly everything; the length run in the end."""
    length, previous = 0, -1
    for index in range(1, steps + 1):
        tiers = target.decide(query(index, 2, 200)).tiers
        length = next(tier.num_steps for tier in tiers if tier.max_batch_size >= 2)
        accepted = (length, length if index % 8 else 0)
        target.observe(observation(index, length, accepted, STEP_S[length], previous_num_steps=previous))
        previous = length
        if target.needs_refit:
            target.refit()
    return length


@pytest.mark.parametrize(("target_ms", "length"), [(None, 5), ("17", 3), ("12.5", 1), ("1", 0)])
def test_the_target_rules_out_long_steps_and_the_fastest_stays(target_ms: str | None, length: int) -> None:
    parameters = {} if target_ms is None else {"itl_target_ms": target_ms}
    policy = make_policy("goodput", parameters, profile())
    assert isinstance(policy, GoodputPolicy)
    served = session()
    served.policy = policy
    assert settle(served) == length


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_target_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidFieldError, match=r"itl_target_ms"):
        make_policy("goodput", {"itl_target_ms": text}, profile())
