"""Sessions for targets, and asking them as a real engine would."""

from __future__ import annotations

from typing import Final

from control_service.core.registry import EngineRegistry
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import Mode, StepQuery
from control_service.server.convert import lease_to_proto
from sglang_patch.lease import Fence, check
from turbospec.v1.control_pb2 import DecideResponse

ENGINES_MAX: Final = 4
# A service does not live for ever: state starts anew after so many messages.
LIFE_MESSAGES: Final = 2_000


def registry() -> EngineRegistry:
    return EngineRegistry(engines_max=ENGINES_MAX, mode=Mode.ENFORCE, terms=LeaseTerms(decisions_kept=64))


def ask(session: EngineSession, query: StepQuery) -> None:
    """Decide, encode, and check as the engine would: a service must not send what an engine refuses."""
    lease = session.decide(query)
    answer = DecideResponse.FromString(lease_to_proto(lease).SerializeToString())
    profile = session.profile
    fence = Fence(
        epoch=profile.epoch,
        candidate_num_steps=frozenset(profile.candidate_num_steps),
        last_asked_step=query.step_index,
        newest_answered_step=query.step_index,
        newest_generation=0,
        newest_decision_id=answer.decision_id - 1,
    )
    check(answer, fence, now_ns=0)
