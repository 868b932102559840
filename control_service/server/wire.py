"""Messages that the command line reads as well: profiles and observed steps. Imports no model."""

from __future__ import annotations

from control_service.core.types import STEP_FIELDS, EngineProfile, StepObservation
from turbospec.v1 import admin_pb2, control_pb2


def profile_from_proto(message: control_pb2.EngineProfile) -> EngineProfile:
    """Field by field; nothing is checked here."""
    return EngineProfile(
        engine_id=message.engine_id,
        epoch=message.epoch,
        sglang_version=message.sglang_version,
        plugin_version=message.plugin_version,
        target_model=message.target_model,
        draft_model=message.draft_model,
        dtype=message.dtype,
        accelerator=message.accelerator,
        tensor_parallel_size=message.tensor_parallel_size,
        data_parallel_size=message.data_parallel_size,
        pipeline_parallel_size=message.pipeline_parallel_size,
        algorithm=message.algorithm,
        topk=message.topk,
        candidate_num_steps=tuple(message.candidate_num_steps),
        graph_batch_sizes=tuple(message.graph_batch_sizes),
        max_running_requests=message.max_running_requests,
        launch_num_steps=message.launch_num_steps,
    )


def profile_to_proto(profile: EngineProfile) -> control_pb2.EngineProfile:
    """Field by field."""
    return control_pb2.EngineProfile(
        engine_id=profile.engine_id,
        epoch=profile.epoch,
        sglang_version=profile.sglang_version,
        plugin_version=profile.plugin_version,
        target_model=profile.target_model,
        draft_model=profile.draft_model,
        dtype=profile.dtype,
        accelerator=profile.accelerator,
        tensor_parallel_size=profile.tensor_parallel_size,
        data_parallel_size=profile.data_parallel_size,
        pipeline_parallel_size=profile.pipeline_parallel_size,
        algorithm=profile.algorithm,
        topk=profile.topk,
        candidate_num_steps=profile.candidate_num_steps,
        graph_batch_sizes=profile.graph_batch_sizes,
        max_running_requests=profile.max_running_requests,
        launch_num_steps=profile.launch_num_steps,
    )


def observed_step_to_proto(engine_id: str, epoch: int, step: StepObservation) -> admin_pb2.ObservedStep:
    """Field by field."""
    values = {name: getattr(step, name) for name in STEP_FIELDS}
    return admin_pb2.ObservedStep(engine_id=engine_id, epoch=epoch, **values)


def observed_step_from_proto(message: admin_pb2.ObservedStep) -> StepObservation:
    """Field by field; nothing is checked here."""
    values = {name: getattr(message, name) for name in STEP_FIELDS}
    for name in ("accepted_drafts", "first_step", "after_full_accept"):
        values[name] = tuple(values[name])
    return StepObservation(**values)
