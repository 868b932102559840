"""Plain values that cross the boundary of the core."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import NamedTuple


class Mode(IntEnum):
    """What an engine does with a decision; the numbers are those of the wire contract."""

    OFF = 1
    SHADOW = 2
    CANARY = 3
    ENFORCE = 4


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Who is asking; see `EngineProfile` of the wire contract for the fields."""

    engine_id: str
    epoch: int
    sglang_version: str
    plugin_version: str
    target_model: str
    draft_model: str
    dtype: str
    accelerator: str
    tensor_parallel_size: int
    data_parallel_size: int
    pipeline_parallel_size: int
    algorithm: str
    topk: int
    candidate_num_steps: tuple[int, ...]
    graph_batch_sizes: tuple[int, ...]
    max_running_requests: int
    launch_num_steps: int

    def learned_key(self) -> str:
        """Hex digest of everything but engine_id and epoch: engines that share it share costs."""
        fields = asdict(self)
        del fields["engine_id"], fields["epoch"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


class StepQuery(NamedTuple):
    """A request for the length of step `step_index`."""

    step_index: int
    batch_size: int
    context_tokens: int
    waiting_requests: int


class StepObservation(NamedTuple):
    """One decode step as it really ran."""

    step_index: int
    batch_size: int
    context_tokens: int
    waiting_requests: int
    num_steps: int
    previous_num_steps: int
    start_s: float
    duration_s: float
    accepted_drafts: tuple[int, ...]
    first_step: tuple[bool, ...]
    source: str
    fallback_reason: str
    decision_id: int
    decision_wait_us: float
    control_us: float
    dropped_records: int
    # By request: the step before it that drafted had every draft accepted. Empty if that is not known.
    after_full_accept: tuple[bool, ...] = ()
    # The engine's link as the span was sent; empty if it is not known. Counts are totals of the epoch.
    link_state: str = ""
    lease_refusals: tuple[tuple[str, int], ...] = ()
    dropped_asks: int = 0

    @property
    def changed_length(self) -> bool:
        """Whether the length differs from the step before; unknown counts as changed."""
        return self.previous_num_steps != self.num_steps


# Fields of the link, not of the step: traces and watchers do without them.
LINK_FIELDS = ("link_state", "lease_refusals", "dropped_asks")
STEP_FIELDS = tuple(name for name in StepObservation._fields if name not in LINK_FIELDS)


class Tier(NamedTuple):
    """Batches of up to `max_batch_size` run `num_steps`."""

    max_batch_size: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Lease:
    """What the engine is told."""

    epoch: int
    step_index: int
    decision_id: int
    model_generation: int
    valid_for_steps: int
    valid_for_ms: int
    mode: Mode
    canary_percent: int
    tiers: tuple[Tier, ...]


class Prediction(NamedTuple):
    """What one candidate length would do for a batch.

    Standard errors as ratios: of tokens, of seconds, and of the difference to the length with the highest
    goodput. The last is smaller than the lengths' own errors suggest: what they share cancels.
    """

    num_steps: int
    expected_tokens: float
    expected_step_s: float
    goodput_tokens_per_s: float
    goodput_standard_error_tokens_per_s: float
    tokens_standard_error_ratio: float
    step_standard_error_ratio: float
    gap_standard_error_ratio: float


class Choice(NamedTuple):
    """A policy's answer: a length for the batch at hand, why, and tiers around it.

    hold_steps: for how many steps it may stand; None for as long as the lease's terms allow.
    """

    num_steps: int
    reason: str
    tiers: tuple[Tier, ...]
    predictions: tuple[Prediction, ...]
    hold_steps: int | None = None

    def prediction_for(self, num_steps: int) -> Prediction | None:
        """The prediction of one length, if the models were ready."""
        return next((p for p in self.predictions if p.num_steps == num_steps), None)


class Decision(NamedTuple):
    """A choice as it is kept for explanation."""

    decision_id: int
    query: StepQuery
    policy: str
    model_generation: int
    choice: Choice


class PositionEstimate(NamedTuple):
    """P(draft at `position` accepted | all before it accepted), as Beta counts.

    The first position is listed twice: after a rejection, and after a step with every draft accepted.
    """

    position: int
    after_full_accept: bool
    accepted: float
    rejected: float
    probability: float
    standard_error: float


class CellEstimate(NamedTuple):
    """Step time of one length at one batch bucket."""

    num_steps: int
    batch_size: int
    samples: int
    intercept_s: float
    context_slope_s_per_token: float
    error_ratio: float
