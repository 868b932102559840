"""Good messages of every kind, to be spoilt."""

from __future__ import annotations

import json
import random
from typing import Final

from control_service.core.learned import STATE_VERSION, snapshot_of, state_of
from control_service.core.models import EngineModels
from control_service.server.wire import profile_from_proto
from control_service.store.envelope import seal
from tests.integration.service.synthetic_engine import export_request, make_profile, make_span
from tests.unit.control_service.factories import observation
from turbospec.v1.control_pb2 import (
    MODE_CANARY,
    MODE_ENFORCE,
    MODE_OFF,
    MODE_SHADOW,
    DecideRequest,
    DecideResponse,
    StepRequest,
    Tier,
)

EPOCH: Final = 7
CANDIDATES: Final = (0, 1, 2, 3, 5)
# The step that the engine is asking for while answers are fed to it.
ASKED_STEP: Final = 1_000
# That are reported, from 1.
STEPS: Final = 60
PROFILE: Final = make_profile(epoch=EPOCH)


def answers() -> list[bytes]:
    """Leases as a service sends them."""
    tiers = [Tier(max_batch_size=4, num_steps=5), Tier(max_batch_size=16, num_steps=2)]
    modes = (
        {"mode": MODE_ENFORCE, "tiers": tiers, "decision_id": 9},
        {"mode": MODE_SHADOW, "tiers": tiers[:1], "decision_id": 9},
        {"mode": MODE_CANARY, "canary_percent": 10, "tiers": tiers, "decision_id": 9},
        {"mode": MODE_OFF},
    )
    return [
        DecideResponse(
            epoch=EPOCH,
            step_index=step,
            model_generation=generation,
            valid_for_steps=16,
            valid_for_ms=1_000,
            **mode,
        ).SerializeToString()
        for step in (ASKED_STEP - 1, ASKED_STEP)
        for generation in (0, 3)
        for mode in modes
    ]


def requests() -> list[bytes]:
    """What engines send: profiles and steps."""
    profiles = (
        PROFILE,
        make_profile(epoch=EPOCH + 1),
        make_profile("engine-b", candidate_num_steps=[0, 5], graph_batch_sizes=[1, 2, 4, 8, 16]),
        make_profile("engine-c", max_running_requests=65_536, draft_model=""),
    )
    steps = (
        StepRequest(epoch=EPOCH, step_index=ASKED_STEP, batch_size=2, context_tokens=300),
        StepRequest(epoch=EPOCH, step_index=1, batch_size=16, waiting_requests=40),
    )
    return [
        *(DecideRequest(profile=profile).SerializeToString() for profile in profiles),
        *(DecideRequest(step=step).SerializeToString() for step in steps),
    ]


def export_requests(engine_id: str = PROFILE.engine_id, epoch: int = EPOCH) -> list[bytes]:
    """Step records as an engine's agent exports them."""
    chance = random.Random(1)
    spans = []
    for index in range(1, STEPS + 1):
        length, batch = chance.choice(CANDIDATES), chance.choice((1, 2, 4))
        fell_back = {"decision_source": "fallback", "fallback_reason": "overdue", "decision_id": 0}
        spans.append(
            make_span(
                index,
                length,
                [chance.randint(0, length) for _ in range(batch)],
                0.01 + 0.001 * length,
                **(fell_back if not length else {"after_full_accept": [False] * batch}),
                **{"link_state": "stale", "dropped_asks": 3, "lease_refusals.duplicate": 2},
            )
        )
    return [
        export_request(engine_id, epoch, spans[first:last]).SerializeToString()
        for first, last in ((0, 1), (1, 2), (2, 6), (6, 20), (20, STEPS))
    ]


def states() -> list[bytes]:
    """What was learned, as JSON."""
    profile = profile_from_proto(PROFILE)
    models = EngineModels(profile)
    chance = random.Random(1)
    for index in range(1, 121):
        length = chance.choice(CANDIDATES)
        models.observe(
            observation(
                index, length, (chance.randint(0, length),), 0.01 + 0.001 * length + 1e-4 * chance.random()
            )
        )
    models.refit()
    return [json.dumps(state_of(snapshot_of(models))).encode()]


def envelopes() -> list[bytes]:
    """The same, as a store keeps it."""
    key = profile_from_proto(PROFILE).learned_key()
    return [seal(key, STATE_VERSION, json.loads(state)) for state in states()]
