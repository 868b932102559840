"""Plain values for tests of the core."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from control_service.core.types import EngineProfile, StepObservation, StepQuery

_PROFILE = EngineProfile(
    engine_id="engine",
    epoch=1,
    sglang_version="0.5.23",
    plugin_version="0.1.0",
    target_model="target",
    draft_model="draft",
    dtype="float32",
    accelerator="cpu",
    tensor_parallel_size=1,
    data_parallel_size=1,
    pipeline_parallel_size=1,
    algorithm="EAGLE",
    topk=1,
    candidate_num_steps=(0, 1, 2, 3, 5),
    graph_batch_sizes=(),
    max_running_requests=16,
    launch_num_steps=5,
)


def profile(**changes: Any) -> EngineProfile:
    return replace(_PROFILE, **changes)


def query(step_index: int, batch_size: int = 1, context_tokens: int = 100) -> StepQuery:
    return StepQuery(step_index, batch_size, context_tokens, 0)


def observation(
    step_index: int, num_steps: int, accepted: tuple[int, ...], duration_s: float = 0.02, **changes: Any
) -> StepObservation:
    step = StepObservation(
        step_index=step_index,
        batch_size=len(accepted),
        context_tokens=100 * len(accepted),
        waiting_requests=0,
        num_steps=num_steps,
        previous_num_steps=num_steps,
        start_s=float(step_index),
        duration_s=duration_s,
        accepted_drafts=accepted,
        first_step=(False,) * len(accepted),
        source="lease",
        fallback_reason="",
        decision_id=step_index,
        decision_wait_us=0.0,
        control_us=0.0,
        dropped_records=0,
    )
    return step._replace(**changes)
