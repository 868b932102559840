"""Outputs are the plain engine's, token by token, while the length changes between steps."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.engine.conftest import CANDIDATES, Launch
from tests.support.scripted_service import ScriptedService
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names

HOLD_STEPS = 3


def cycle(step: int) -> int:
    """Every candidate in turn, each for a few steps, in an order that jumps up and down."""
    return (5, 0, 3, 1, 2)[step // HOLD_STEPS % len(CANDIDATES)]


@pytest.mark.parametrize("algorithm", ["EAGLE", "STANDALONE", "NGRAM"])
def test_outputs_do_not_depend_on_the_length(
    algorithm: str,
    launch: Launch,
    prompts: list[str],
    plain_outputs: list[list[int]],
    tmp_path: Path,
) -> None:
    service = ScriptedService(cycle)
    environment = {
        "TURBOSPEC_CONTROL_ADDRESS": service.start(tmp_path / "control.sock"),
        "TURBOSPEC_CANDIDATES": ",".join(map(str, CANDIDATES)),
    }
    server = launch(algorithm, environment).wait_ready()
    try:
        assert server.generate_many(prompts, 80) == plain_outputs
        assert server.generate_many(prompts, 80) == plain_outputs, "and again, with a warm prefix cache"
        tokens = sum(map(len, plain_outputs)) * 2
        # The first token of a request comes from its prefill.
        expected = tokens - 2 * len(prompts)
        assert eventually(lambda: committed(service) >= expected)
    finally:
        server.stop()
        service.stop()

    spans = service.spans()
    (profile,) = service.profiles
    assert tuple(profile.candidate_num_steps) == CANDIDATES
    assert (profile.algorithm, profile.launch_num_steps, profile.dtype) == (algorithm, 5, "float32")

    assert all(len(span[names.AFTER_FULL_ACCEPT]) == span[names.BATCH_SIZE] for span in spans)
    assert any(any(span[names.AFTER_FULL_ACCEPT]) for span in spans), "some steps follow a full accept"
    steps = [span[names.STEP_INDEX] for span in spans]
    assert steps == list(range(1, len(spans) + 1)), "one span per decode step, in order"
    ran = Counter(span[names.NUM_STEPS] for span in spans)
    assert set(ran) == set(CANDIDATES), "every candidate was run"
    led = [span for span in spans if span[names.DECISION_SOURCE] == names.SOURCE_LEASE]
    assert len(led) > 0.9 * len(spans)
    for span in led:
        # Decided for this very step, or for the one before by a lease that holds for two.
        step = span[names.STEP_INDEX]
        assert span[names.NUM_STEPS] in (cycle(step), cycle(step - 1))
    for before, span in pairwise(spans):
        assert span[names.PREVIOUS_NUM_STEPS] == before[names.NUM_STEPS]
    for span in spans:
        accepted = span[names.ACCEPTED_DRAFTS]
        assert len(accepted) == len(span[names.FIRST_STEP]) == span[names.BATCH_SIZE]
        assert all(0 <= count <= span[names.NUM_STEPS] for count in accepted)
        assert span["duration_ms"] > 0
        assert span[names.CONTEXT_TOKENS] > 0
        assert span[names.VERIFY_MS] > 0
    # Every request has exactly one first step after each of its prefills.
    assert sum(sum(span[names.FIRST_STEP]) for span in spans) == 2 * len(prompts)


def committed(service: ScriptedService) -> int:
    """Tokens committed by the steps reported so far; a request's last step may overshoot its limit."""
    return sum(sum(span[names.ACCEPTED_DRAFTS]) + span[names.BATCH_SIZE] for span in service.spans())
