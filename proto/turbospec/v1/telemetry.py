"""Names of the telemetry contract: one OTLP span per decode step.

Both sides import these names; neither spells an attribute itself. Times are in
milliseconds unless the name says otherwise. A span starts as its step is launched
and ends as the next step is launched (or as its result is processed, if the engine
then went idle), so its duration is what the step cost the requests in it.
"""

from typing import Final

SPAN_DECODE_STEP: Final = "sglang.decode_step"

# Resource attributes: whose spans these are.
ENGINE_ID: Final = "turbospec.engine_id"  # str
EPOCH: Final = "turbospec.epoch"  # str: decimal; an OTLP int is signed, an epoch is not

# Span attributes that every step has.
STEP_INDEX: Final = "turbospec.step_index"  # int, counts decode steps of the epoch from 1
BATCH_SIZE: Final = "turbospec.batch_size"  # int, running requests
CONTEXT_TOKENS: Final = "turbospec.context_tokens"  # int, sum of sequence lengths before the step
WAITING_REQUESTS: Final = "turbospec.waiting_requests"  # int, queued as the step was launched
NUM_STEPS: Final = "turbospec.num_steps"  # int, the length this step really ran with
DECISION_SOURCE: Final = "turbospec.decision_source"  # str, one of the SOURCE_* below
DECISION_ID: Final = "turbospec.decision_id"  # int, 0 unless a lease was at hand
DECISION_WAIT_US: Final = "turbospec.decision_wait_us"  # float, microseconds waited for a lease
CONTROL_US: Final = "turbospec.control_us"  # float, microseconds our code took on the step thread
ACCEPTED_DRAFTS: Final = "turbospec.accepted_drafts"  # int array, per request, bonus excluded
FIRST_STEP: Final = "turbospec.first_step"  # bool array, per request: first decode step after prefill
# bool array, per request: its newest step before this one that drafted had every draft accepted
AFTER_FULL_ACCEPT: Final = "turbospec.after_full_accept"
PREVIOUS_NUM_STEPS: Final = "turbospec.previous_num_steps"  # int, -1 for the first step of an epoch

# Span attributes that some steps have.
FALLBACK_REASON: Final = "turbospec.fallback_reason"  # str, with SOURCE_FALLBACK
SHADOW_NUM_STEPS: Final = "turbospec.shadow_num_steps"  # int, decided but not applied
DRAFT_MS: Final = "turbospec.draft_ms"  # float
VERIFY_MS: Final = "turbospec.verify_ms"  # float
DRAFT_EXTEND_MS: Final = "turbospec.draft_extend_ms"  # float
DROPPED_RECORDS: Final = "turbospec.dropped_records"  # int, records lost before this one, cumulative

# Span attributes of the engine's link to the service as the span is sent. Counts are totals of the epoch,
# left out while zero.
LINK_STATE: Final = "turbospec.link_state"  # str, one of the LINK_* below
LEASE_REFUSALS: Final = "turbospec.lease_refusals."  # int; the cause, of LEASE_REFUSAL_CAUSES, is appended
DROPPED_ASKS: Final = (
    "turbospec.dropped_asks"  # int, asks that a newer one replaced before they could be sent
)

# Where a step's length came from.
SOURCE_LEASE: Final = "lease"  # decided by the service for this step
SOURCE_FALLBACK: Final = "fallback"  # no valid lease in time: length 0
SOURCE_LAUNCH_LENGTH: Final = "launch_length"  # mode off, shadow, or outside the canary
SOURCE_KILL_SWITCH: Final = "kill_switch"  # length 0 by the operator's hand
SOURCES: Final = (SOURCE_LEASE, SOURCE_FALLBACK, SOURCE_LAUNCH_LENGTH, SOURCE_KILL_SWITCH)

# The engine's link to the service.
LINK_CONNECTING: Final = "connecting"  # no stream yet, or none any more
LINK_FRESH: Final = "fresh"  # a stream, and a lease that holds
LINK_STALE: Final = "stale"  # a stream, but its answers are late and the leases have run out
LINK_OPEN: Final = "open"  # the breaker is open: answers are watched, not obeyed
LINK_DISABLED: Final = "disabled"  # kill switch, mode off, or a failure of our own
LINK_STATES: Final = (LINK_CONNECTING, LINK_FRESH, LINK_STALE, LINK_OPEN, LINK_DISABLED)

# Why the engine refused an answer.
LEASE_REFUSAL_CAUSES: Final = (
    "wrong_epoch",  # for another life of this engine
    "future_step",  # for a step nobody has asked for
    "out_of_order",  # older than an answer already taken
    "duplicate",  # a decision already taken
    "stale_generation",  # of models older than those of an answer already taken
    "malformed",  # breaks the wire contract
    "unknown_length",  # a length the engine cannot run
    "flood",  # far more answers than asks; ends the stream
)

# Spans are sent together. An export costs agent and service milliseconds of a core, whatever is in it: where
# steps are slow it waits until there are so many, or so many requests in them, or so many intervals are over.
_WORTHWHILE_STEPS: Final = 8
_WORTHWHILE_REQUESTS: Final = 64
_LONGEST_INTERVALS: Final = 5


def export_is_due(steps: int, batch_size: int, intervals: int) -> bool:
    """Whether so many steps of such batches are to be sent, so many export intervals after the last ones."""
    worthwhile = steps >= _WORTHWHILE_STEPS or steps * batch_size >= _WORTHWHILE_REQUESTS
    return worthwhile or intervals >= _LONGEST_INTERVALS
