"""Metrics of an engine: what it runs and what was decided for it. The label engine_id comes first in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from control_service.core.counters import REASONS_MAX, EngineCounters
from control_service.core.registry import EngineEntry
from control_service.core.types import Mode, StepObservation
from control_service.core.validation import SOURCES
from control_service.server.metrics.labels import NUM_STEPS, POSITION, WORDS_MAX
from control_service.server.metrics.measure import Label, Measure, Point, by, one
from turbospec.v1.telemetry import LEASE_REFUSAL_CAUSES, LINK_STATES

# Of texts that an engine chose itself.
TEXT_MAX: Final = 128

SOURCE = Label("source", "`lease`, `fallback`, `launch_length` (mode) or `kill_switch`", len(SOURCES))
FALLBACK_REASON = Label("reason", "what the engine gave as reason, `other` beyond 16", REASONS_MAX + 1)
DECISION_REASON = Label("reason", "which rule decided", WORDS_MAX)
LINK_STATE = Label(
    "state", "`connecting`, `fresh`, `stale`, `open` (the breaker) or `disabled`", len(LINK_STATES)
)
REFUSAL_CAUSE = Label("cause", "what did not fit", len(LEASE_REFUSAL_CAUSES))
DROP_CAUSE = Label("cause", "`engine`: lost before it was sent; else what was wrong with the span", WORDS_MAX)
MODE = Label("mode", "`off`, `shadow`, `canary` or `enforce`", len(Mode))
ABOUT = tuple(
    Label(name, meaning, 1)
    for name, meaning in (
        ("sglang_version", "of SGLang"),
        ("plugin_version", "of the plugin in it"),
        ("algorithm", "of speculation"),
        ("target_model", "path or name, cut at 128 characters"),
        ("draft_model", "likewise"),
        ("accelerator", "name of the device"),
        ("policy", "name of the policy in force"),
    )
)


def _counters(entry: EngineEntry) -> EngineCounters:
    return entry.session.counters


def _newest(entry: EngineEntry, field: str) -> list[Point]:
    step: StepObservation | None = entry.session.newest_step
    return one(None if step is None else getattr(step, field))


def _by_candidate(entry: EngineEntry, values: Mapping[int, float]) -> list[Point]:
    """A counter that is there from the beginning, so that its first increase is seen."""
    return by({length: values.get(length, 0) for length in entry.session.profile.candidate_num_steps})


def _by_source(values: Mapping[str, float]) -> list[Point]:
    return by({source: values.get(source, 0) for source in sorted(SOURCES)})


def _decided(entry: EngineEntry) -> list[Point]:
    decisions = entry.session.decisions
    return one(decisions[-1].choice.num_steps if decisions else None)


def _mode(entry: EngineEntry) -> list[Point]:
    return [((mode.name.lower(),), float(mode is entry.session.mode)) for mode in Mode]


def _link_state(entry: EngineEntry) -> list[Point]:
    newest = entry.session.newest_step
    if newest is None or not newest.link_state:
        return []
    return [((state,), float(state == newest.link_state)) for state in LINK_STATES]


def _about(entry: EngineEntry) -> list[Point]:
    profile = entry.session.profile
    texts = (
        profile.sglang_version,
        profile.plugin_version,
        profile.algorithm,
        profile.target_model,
        profile.draft_model,
        profile.accelerator,
        entry.session.policy.name,
    )
    return [(tuple(text[:TEXT_MAX] for text in texts), 1.0)]


STEP_MEASURES: Final[tuple[Measure[EngineEntry], ...]] = (
    Measure(
        "gauge", "engine_info", "Always 1; the labels say what runs.", _about, ABOUT,
    ),
    Measure(
        "gauge", "engine_connected", "1 while the engine has an open decision stream, else 0.",
        lambda e: one(float(e.connected)),
    ),
    Measure("gauge", "mode", "1 for the mode in force, 0 for the others.", _mode, (MODE,)),
    Measure(
        "counter", "steps", "Decode steps by where their length came from.",
        lambda e: _by_source(_counters(e).steps_by_source), (SOURCE,),
    ),
    Measure(
        "counter", "step_seconds_by_source", "Seconds in decode steps, by where their length came from.",
        lambda e: _by_source(_counters(e).seconds_by_source), (SOURCE,),
    ),
    Measure(
        "counter", "committed_tokens_by_source",
        "Tokens committed by decode steps, by where their length came from.",
        lambda e: _by_source(_counters(e).committed_tokens_by_source), (SOURCE,),
    ),
    Measure(
        "counter", "steps_by_length", "Decode steps by the length they ran with.",
        lambda e: _by_candidate(e, _counters(e).steps_by_num_steps), (NUM_STEPS,),
    ),
    Measure(
        "counter", "step_seconds", "Seconds spent in decode steps, by the length they ran with.",
        lambda e: _by_candidate(e, _counters(e).seconds_by_num_steps), (NUM_STEPS,),
    ),
    Measure(
        "counter", "committed_tokens", "Tokens committed by decode steps, by the length they ran with.",
        lambda e: _by_candidate(e, _counters(e).committed_tokens_by_num_steps), (NUM_STEPS,),
    ),
    Measure(
        "counter", "drafts", "Times a request was given drafts to verify.",
        lambda e: one(_counters(e).drafts_total),
    ),
    Measure(
        "counter", "draft_tokens", "Drafted tokens that were verified.",
        lambda e: one(_counters(e).draft_tokens_total),
    ),
    Measure(
        "counter", "accepted_tokens",
        "Drafted tokens that were accepted; 1 + accepted / drafts is the mean length.",
        lambda e: one(_counters(e).accepted_tokens_total),
    ),
    Measure(
        "counter", "accepted_tokens_per_position", "Drafted tokens that were accepted, by position.",
        lambda e: by(dict(enumerate(_counters(e).accepted_by_position, start=1))), (POSITION,),
    ),
    Measure(
        "counter", "fallbacks", "Steps that had no valid lease in time and ran without speculation.",
        lambda e: by(_counters(e).fallbacks_by_reason), (FALLBACK_REASON,),
    ),
    Measure(
        "gauge", "link_state", "1 for the state of the engine's link to the service, 0 for the others.",
        _link_state, (LINK_STATE,),
    ),
    Measure(
        "counter", "lease_refusals", "Answers of the service that the engine refused to obey.",
        lambda e: by({cause: _counters(e).lease_refusals_by_cause[cause] for cause in LEASE_REFUSAL_CAUSES}),
        (REFUSAL_CAUSE,),
    ),
    Measure(
        "counter", "dropped_asks",
        "Requests that a newer one replaced in the engine before they could be sent.",
        lambda e: one(_counters(e).dropped_asks_total),
    ),
    Measure(
        "counter", "decisions", "Requests of the engine that were answered with a decision.",
        lambda e: by(_counters(e).decisions_by_reason), (DECISION_REASON,),
    ),
    Measure(
        "counter", "switches", "Changes of the decided length; probes and the cold start are not counted.",
        lambda e: one(_counters(e).switches_total),
    ),
    Measure(
        "counter", "telemetry_dropped", "Step records lost or refused.",
        lambda e: by({"engine": 0, **_counters(e).drops_by_cause}), (DROP_CAUSE,),
    ),
    Measure(
        "histogram", "step_duration_seconds", "How long decode steps took, from launch to the next launch.",
        lambda e: _counters(e).step_seconds,
    ),
    Measure(
        "histogram", "decision_wait_seconds", "How long steps waited for a lease.",
        lambda e: _counters(e).decision_wait_seconds,
    ),
    Measure(
        "histogram", "control_seconds", "What our code took on the engine's step thread, waiting excluded.",
        lambda e: _counters(e).control_seconds,
    ),
    Measure(
        "histogram", "answer_duration_seconds",
        "In the service: from a request's arrival to its answer's departure.",
        lambda e: _counters(e).answer_seconds,
    ),
    Measure(
        "histogram", "step_time_error_ratio",
        "Relative error of step times, as predicted just before each step was learned.",
        lambda e: _counters(e).step_time_error_ratio,
    ),
    Measure(
        "gauge", "num_steps", "Length in force: that of the newest step.",
        lambda e: _newest(e, "num_steps"),
    ),
    Measure("gauge", "decided_num_steps", "Length decided last; in shadow mode it is not run.", _decided),
    Measure("gauge", "running_requests", "Requests in the newest step.", lambda e: _newest(e, "batch_size")),
    Measure(
        "gauge", "waiting_requests", "Requests queued as the newest step was launched.",
        lambda e: _newest(e, "waiting_requests"),
    ),
    Measure(
        "gauge", "context_tokens", "Sum of the sequence lengths in the newest step.",
        lambda e: _newest(e, "context_tokens"),
    ),
    Measure(
        "gauge", "goodput_tokens_per_second",
        "Committed tokens per second of decode steps, over the last 10 s of them.",
        lambda e: one(_counters(e).window.rates().goodput_tokens_per_s),
    ),
)  # fmt: skip
