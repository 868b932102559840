"""What a profile, a query and a step must look like to be believed."""

from __future__ import annotations

import math
from itertools import pairwise

from control_service.core.types import EngineProfile, StepObservation, StepQuery

MAX_TEXT = 512
MAX_ENGINE_ID = 128
MAX_LENGTH = 64
MAX_CANDIDATES = 32
MAX_BATCH = 65_536
MAX_GRAPH_SIZES = 512
MAX_CONTEXT_TOKENS = 1 << 40
# What the wire contract's own messages can carry on.
MAX_WAITING_REQUESTS = (1 << 32) - 1
MAX_STEP_SECONDS = 60.0
MAX_MICROSECONDS = 60e6
_TEXTS = (
    "sglang_version",
    "plugin_version",
    "target_model",
    "draft_model",
    "dtype",
    "accelerator",
    "algorithm",
)
SOURCES = frozenset({"lease", "fallback", "launch_length", "kill_switch"})


class InvalidFieldError(ValueError):
    """A message breaks the contract; the text names the field, its value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}: {value!r} is not allowed; must be {allowed}")
        self.field = field


def check_profile(profile: EngineProfile) -> None:
    """Raise InvalidFieldError at the first field that breaks the contract."""
    _check_texts(profile)
    if profile.epoch < 1:
        raise InvalidFieldError("profile.epoch", profile.epoch, "at least 1")
    candidates = profile.candidate_num_steps
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise InvalidFieldError("profile.candidate_num_steps", candidates, f"1 to {MAX_CANDIDATES} lengths")
    if candidates[0] != 0 or not _ascending(candidates):
        raise InvalidFieldError("profile.candidate_num_steps", candidates, "strictly ascending from 0")
    if candidates[-1] > MAX_LENGTH:
        raise InvalidFieldError("profile.candidate_num_steps", candidates, f"at most {MAX_LENGTH} each")
    sizes = profile.graph_batch_sizes
    if len(sizes) > MAX_GRAPH_SIZES or not _ascending(sizes):
        raise InvalidFieldError(
            "profile.graph_batch_sizes", sizes, f"strictly ascending, at most {MAX_GRAPH_SIZES} of them"
        )
    if sizes and not 1 <= sizes[0] <= sizes[-1] <= MAX_BATCH:
        raise InvalidFieldError("profile.graph_batch_sizes", sizes, f"1 to {MAX_BATCH} each")
    if not 1 <= profile.max_running_requests <= MAX_BATCH:
        raise InvalidFieldError(
            "profile.max_running_requests", profile.max_running_requests, f"1 to {MAX_BATCH}"
        )
    if profile.launch_num_steps not in candidates:
        raise InvalidFieldError(
            "profile.launch_num_steps", profile.launch_num_steps, f"one of the candidates {candidates}"
        )


def _check_texts(profile: EngineProfile) -> None:
    for name in ("engine_id", "target_model", "algorithm"):
        if not getattr(profile, name):
            raise InvalidFieldError(f"profile.{name}", "", "non-empty")
    if len(profile.engine_id) > MAX_ENGINE_ID or not profile.engine_id.isprintable():
        raise InvalidFieldError(
            "profile.engine_id",
            profile.engine_id[:MAX_ENGINE_ID],
            f"printable, at most {MAX_ENGINE_ID} characters",
        )
    for name in (
        "sglang_version",
        "plugin_version",
        "target_model",
        "draft_model",
        "dtype",
        "accelerator",
        "algorithm",
    ):
        if len(getattr(profile, name)) > MAX_TEXT:
            raise InvalidFieldError(f"profile.{name}", "...", f"at most {MAX_TEXT} characters")


def check_query(query: StepQuery) -> None:
    """Raise InvalidFieldError at the first field that breaks the contract."""
    if query.step_index < 1:
        raise InvalidFieldError("step.step_index", query.step_index, "at least 1")
    if not 1 <= query.batch_size <= MAX_BATCH:
        raise InvalidFieldError("step.batch_size", query.batch_size, f"1 to {MAX_BATCH}")
    if query.context_tokens > MAX_CONTEXT_TOKENS:
        raise InvalidFieldError("step.context_tokens", query.context_tokens, f"at most {MAX_CONTEXT_TOKENS}")


def rejection_cause(step: StepObservation, profile: EngineProfile) -> str | None:
    """Why a step must not reach a model; None if it may. A short, fixed vocabulary."""
    if step.step_index < 1:
        return "step_index"
    if not 1 <= step.batch_size <= MAX_BATCH:
        return "batch_size"
    if not 0 <= step.context_tokens <= MAX_CONTEXT_TOKENS:
        return "context_tokens"
    if step.num_steps not in profile.candidate_num_steps:
        return "num_steps"
    if step.previous_num_steps != -1 and step.previous_num_steps not in profile.candidate_num_steps:
        return "previous_num_steps"
    if not math.isfinite(step.duration_s) or not 0.0 < step.duration_s <= MAX_STEP_SECONDS:
        return "duration"
    cause = _cause_by_request(step)
    if cause is not None:
        return cause
    if step.source not in SOURCES:
        return "decision_source"
    if not 0 <= step.waiting_requests <= MAX_WAITING_REQUESTS:
        return "counts"
    if min(step.dropped_records, step.decision_id, step.dropped_asks) < 0:
        return "counts"
    for value in (step.control_us, step.decision_wait_us):
        if not math.isfinite(value) or not 0.0 <= value <= MAX_MICROSECONDS:
            return "control_times"
    return None


def _cause_by_request(step: StepObservation) -> str | None:
    if len(step.accepted_drafts) != step.batch_size or not _all_at_most(step.num_steps, step.accepted_drafts):
        return "accepted_drafts"
    if len(step.first_step) != step.batch_size:
        return "first_step"
    # Empty where an engine does not know it.
    if step.after_full_accept and len(step.after_full_accept) != step.batch_size:
        return "after_full_accept"
    return None


def _all_at_most(most: int, counts: tuple[int, ...]) -> bool:
    """Whether all are from 0 to `most`; asked of bytes, which is faster than of each number."""
    try:
        return not bytes(counts).translate(None, bytes(range(most + 1)))
    except ValueError:
        return False


def _ascending(values: tuple[int, ...]) -> bool:
    return all(low < high for low, high in pairwise(values))
