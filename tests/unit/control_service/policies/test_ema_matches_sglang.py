"""The `ema` policy against the class that SGLang itself runs, step by step on random loads."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.speculative import adaptive_spec_params

from control_service.core.policies.ema_config import default_slots, parse_slots
from control_service.core.policies.make import make_policy
from control_service.core.types import EngineProfile
from tests.unit.control_service.factories import observation, profile, query
from tests.unit.control_service.policies.views import view

CANDIDATES = (0, 1, 2, 3, 5, 7)
LAUNCH_LENGTHS = (1, 3, 7, 2, 0)
CAPTURED = ((), (1, 2, 4, 8, 16, 24, 32, 48), (4, 12, 40, 96))
MAX_REQUESTS = 96
STEPS = 1_500


class Sglang:
    """SGLang's own rule, fed as its scheduler and worker feed it."""

    def __init__(self, engine: EngineProfile, config_path: Path | None) -> None:
        path = None if config_path is None else str(config_path)
        self._params = adaptive_spec_params.AdaptiveSpeculativeParams(engine.launch_num_steps, path)
        self._params.set_cuda_graph_bs(list(engine.graph_batch_sizes) or None)

    def num_steps(self, batch_size: int) -> int:
        return int(self._params.get_steps_for_batch(batch_size))

    def verified(self, accepted: tuple[int, ...]) -> None:
        self._params.on_verify_complete(list(accepted), len(accepted))


def run(engine: EngineProfile, parameters: dict[str, str], reference: Sglang, seed: int) -> set[int]:
    """Both rules side by side; returns the lengths that were run."""
    rng = random.Random(seed)
    policy = make_policy("ema", parameters, engine)
    batch, rate, ran = 1, 0.5, set()
    held_until, held = 0, (0, 0)
    for index in range(1, STEPS + 1):
        if rng.random() < 0.02:
            batch, rate = rng.choice((1, 3, 7, 8, 9, 20, 31, 33, 50, 64, 70, MAX_REQUESTS)), rng.random()
        choice = policy.choose(query(index, batch), view())
        assert choice.num_steps == reference.num_steps(batch)
        assert choice.tiers[-1].max_batch_size == MAX_REQUESTS
        # An answer may stand for as long as it says, if the batch stays.
        if index < held_until and held[0] == batch:
            assert held[1] == choice.num_steps
        elif choice.hold_steps is not None:
            held_until, held = index + choice.hold_steps, (batch, choice.num_steps)
        for size in range(1, MAX_REQUESTS + 1):
            tier = next(tier for tier in choice.tiers if size <= tier.max_batch_size)
            assert tier.num_steps == reference.num_steps(size), (index, size)
        # Now and then a step ran another length than asked for: SGLang counts it all the same.
        length = rng.choice(CANDIDATES) if rng.random() < 0.05 else choice.num_steps
        accepted = tuple(sum(rng.random() < rate for _ in range(length)) for _ in range(batch))
        ran.add(length)
        policy.observe(observation(index, length, accepted), view())
        reference.verified(accepted)
    return ran


@pytest.mark.parametrize("launch", LAUNCH_LENGTHS)
@pytest.mark.parametrize("captured", CAPTURED)
def test_with_sglangs_default_table(launch: int, captured: tuple[int, ...]) -> None:
    engine = profile(
        candidate_num_steps=CANDIDATES,
        graph_batch_sizes=captured,
        max_running_requests=MAX_REQUESTS,
        launch_num_steps=launch,
    )
    ran = run(engine, {}, Sglang(engine, None), seed=launch)
    assert len(ran) >= 4, "the load must make the rule move, or nothing was compared"


SLOT = st.fixed_dictionaries(
    {"candidate_steps": st.lists(st.sampled_from(CANDIDATES), min_size=1, max_size=6)},
    optional={
        "ema_alpha": st.floats(0.0, 1.0),
        "update_interval": st.integers(1, 9),
        "warmup_batches": st.integers(0, 20),
        "up_hysteresis": st.floats(-1.0, 1.0),
        "down_hysteresis": st.floats(-1.0, 1.0),
        "ceiling_coeff": st.floats(0.0, 3.0),
    },
)
CONFIG = st.tuples(
    st.dictionaries(st.sampled_from(("1", "2", "8", "20", "64")), SLOT, min_size=1, max_size=4),
    st.fixed_dictionaries({}, optional={"ema_alpha": st.floats(0.0, 1.0), "warmup_batches": st.just(3)}),
).map(lambda parts: {**parts[0], **parts[1]})


@settings(deadline=None, derandomize=True, max_examples=25)
@given(config=CONFIG, launch=st.sampled_from(CANDIDATES), seed=st.integers(0, 9))
def test_with_any_config_that_sglang_takes(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], launch: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("ema") / "adaptive.json"
    path.write_text(json.dumps(config))
    engine = profile(
        candidate_num_steps=CANDIDATES,
        graph_batch_sizes=CAPTURED[seed % 3],
        max_running_requests=MAX_REQUESTS,
        launch_num_steps=launch,
    )
    run(engine, {"config": json.dumps(config)}, Sglang(engine, path), seed)


def test_the_default_table_is_still_sglangs() -> None:
    """An upgrade of SGLang that changes its table must not go unnoticed."""
    theirs = json.dumps(adaptive_spec_params.DEFAULT_ADAPTIVE_CONFIG)
    assert default_slots(CANDIDATES) == parse_slots(theirs, CANDIDATES)
