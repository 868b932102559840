"""Why a length was chosen, for people."""

from __future__ import annotations

from control_service.core.reasons import reason_sentence
from turbospec.v1 import admin_pb2


def why(decision: admin_pb2.ExplainDecisionResponse) -> str:
    """In a sentence; a reason that is not known here speaks for itself."""
    return reason_sentence(
        decision.reason,
        policy=decision.policy,
        num_steps=decision.num_steps,
        rival_num_steps=decision.margin.runner_up_num_steps,
    )
