"""Metrics of the service itself."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from control_service.core.registry import EngineRegistry
from control_service.server.admin_guard import AdminGuard
from control_service.server.decide import DecideServicer
from control_service.server.learned import LearnedKeeper
from control_service.server.metrics.labels import WORDS_MAX
from control_service.server.metrics.measure import Label, Measure, by, one
from control_service.server.trace import TraceServicer


@dataclass(frozen=True, slots=True)
class ServiceSources:
    """Where the numbers come from."""

    registry: EngineRegistry
    decide: DecideServicer
    trace: TraceServicer
    learned: LearnedKeeper
    admin: AdminGuard
    version: str
    otlp_pushes: Counter[str] = field(default_factory=Counter)


STREAM_CAUSE = Label("cause", "why the service ended it", WORDS_MAX)
OPERATION = Label("operation", "`load` or `save`", 2)
DENIAL = Label("cause", "what was wrong with the call's token, or with ours", WORDS_MAX)
SPAN_CAUSE = Label("cause", "what was wrong with the span, or whose it was", WORDS_MAX)
OUTCOME = Label("outcome", "`delivered` or `failed`", 2)
BUILD = (
    Label("version", "of turbospec", 1),
    Label("python_version", "of the interpreter", 1),
)

SERVICE_MEASURES: Final[tuple[Measure[ServiceSources], ...]] = (
    Measure(
        "gauge", "build_info", "Always 1; the labels say what runs.",
        lambda s: [((s.version, platform.python_version()), 1.0)], BUILD,
    ),
    Measure("gauge", "engines_known", "Engines that this service remembers.", lambda s: one(len(s.registry))),
    Measure(
        "gauge", "engines_connected", "Engines with an open decision stream.",
        lambda s: one(sum(entry.connected for entry in s.registry)),
    ),
    Measure(
        "counter", "streams_refused", "Decision streams that the service ended with an error.",
        lambda s: by(s.decide.refused_by_cause), (STREAM_CAUSE,),
    ),
    Measure("gauge", "streams_open", "Decision streams open now.", lambda s: one(s.decide.streams_open)),
    Measure(
        "counter", "requests_superseded", "Requests not answered because a newer one was waiting.",
        lambda s: one(s.decide.superseded_total),
    ),
    Measure(
        "counter", "requests_rate_limited", "Requests not answered because their stream asked too often.",
        lambda s: one(s.decide.rate_limited_total),
    ),
    Measure("counter", "spans_received", "Decode-step spans received.", lambda s: one(s.trace.spans_total)),
    Measure(
        "counter", "spans_rejected", "Spans that the service refused, of all engines and of none.",
        lambda s: by(s.trace.drops_by_cause), (SPAN_CAUSE,),
    ),
    Measure(
        "counter", "foreign_spans", "Spans of other names, ignored.",
        lambda s: one(s.trace.foreign_spans_total),
    ),
    Measure(
        "counter", "store_errors", "Attempts to load or save what was learned that failed or took too long.",
        lambda s: by({"load": 0, "save": 0, **s.learned.errors_by_operation}), (OPERATION,),
    ),
    Measure("counter", "store_loads", "Learned states taken up.", lambda s: one(s.learned.loads_total)),
    Measure("counter", "store_saves", "Learned states saved.", lambda s: one(s.learned.saves_total)),
    Measure(
        "counter", "store_refused", "Kept states that were odd or of another version, and not used.",
        lambda s: one(s.learned.refused_total),
    ),
    Measure(
        "counter", "admin_denied", "Admin calls that were refused.",
        lambda s: by(s.admin.denied_by_cause), (DENIAL,),
    ),
    Measure(
        "counter", "otlp_pushes", "Exports of these metrics over OTLP, if an endpoint is set.",
        lambda s: by(s.otlp_pushes), (OUTCOME,),
    ),
)  # fmt: skip
