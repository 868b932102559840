"""The Prometheus metrics: counters of the core, read when scraped.

Nothing is written per step here. A scrape is rendered in a thread of its own, so it
asks the event loop, the only writer of the counters, for the families.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from control_service.core.counters import Histogram
from control_service.core.registry import EngineEntry, EngineRegistry
from control_service.core.types import Mode
from control_service.server.decide import DecideServicer
from control_service.server.trace import TraceServicer

SCRAPE_TIMEOUT_S = 5.0
ENGINE = ("engine_id",)


class ServiceCollector(Collector):
    """All metric families, built from the sessions at each scrape."""

    def __init__(
        self, registry: EngineRegistry, decide: DecideServicer, trace: TraceServicer, version: str
    ) -> None:
        self._registry = registry
        self._decide = decide
        self._trace = trace
        self._version = version
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterable[Metric]:
        """Nothing up front, so that registering does not scrape."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Called in a thread of its own; an empty scrape once the loop is gone."""
        if self._loop.is_closed():
            return []
        return asyncio.run_coroutine_threadsafe(self._families(), self._loop).result(SCRAPE_TIMEOUT_S)

    async def _families(self) -> list[Metric]:
        families = _Families()
        entries = list(self._registry)
        for entry in entries:
            _add_engine(families, entry)
        families.gauge("engines_connected", "Engines with an open decision stream.", (), ()).add_metric(
            [], sum(entry.connected for entry in entries)
        )
        families.counter("streams_refused", "Decision streams ended with an error.", ()).add_metric(
            [], self._decide.refused_total
        )
        families.counter(
            "requests_superseded", "Step requests not answered because a newer one was waiting.", ()
        ).add_metric([], self._decide.superseded_total)
        families.counter("spans_received", "Decode-step spans received.", ()).add_metric(
            [], self._trace.spans_total
        )
        families.counter("foreign_spans", "Spans of other names, ignored.", ()).add_metric(
            [], self._trace.foreign_spans_total
        )
        refused = families.counter("spans_rejected", "Spans refused by the service.", ("cause",))
        for cause, count in self._trace.drops_by_cause.items():
            refused.add_metric([cause], count)
        families.gauge(
            "build_info", "Always 1; the labels say what runs.", ("version", "python_version"), ()
        ).add_metric([self._version, platform.python_version()], 1)
        return list(families)


class _Families:
    """Families by name, created when first used."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def counter(self, name: str, help_text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
        family = self._families.get(name)
        if not isinstance(family, CounterMetricFamily):
            family = CounterMetricFamily(f"turbospec_{name}", help_text, labels=labels)
            self._families[name] = family
        return family

    def gauge(
        self, name: str, help_text: str, labels: tuple[str, ...] = (), base: tuple[str, ...] = ENGINE
    ) -> GaugeMetricFamily:
        family = self._families.get(name)
        if not isinstance(family, GaugeMetricFamily):
            family = GaugeMetricFamily(f"turbospec_{name}", help_text, labels=(*base, *labels))
            self._families[name] = family
        return family

    def histogram(self, name: str, help_text: str, engine_id: str, values: Histogram) -> None:
        family = self._families.get(name)
        if not isinstance(family, HistogramMetricFamily):
            family = HistogramMetricFamily(f"turbospec_{name}", help_text, labels=ENGINE)
            self._families[name] = family
        bounds = [*(repr(bound) for bound in values.bounds), "+Inf"]
        buckets = list(zip(bounds, values.cumulative(), strict=True))
        family.add_metric([engine_id], buckets, values.sum)


def _add_engine(families: _Families, entry: EngineEntry) -> None:
    session, counters = entry.session, entry.session.counters
    engine_id = session.profile.engine_id
    for name, help_text, value in (
        ("decisions", "Requests answered with a decision.", counters.decisions_total),
        ("switches", "Changes of the decided length, probes and cold start apart.", counters.switches_total),
        ("drafts", "Times a request was given drafts to verify.", counters.drafts_total),
        ("draft_tokens", "Drafted tokens.", counters.draft_tokens_total),
        ("accepted_tokens", "Drafted tokens that were accepted.", counters.accepted_tokens_total),
        ("committed_tokens", "Tokens committed by decode steps.", counters.committed_tokens_total),
    ):
        families.counter(name, help_text, ENGINE).add_metric([engine_id], value)
    for name, help_text, label, counts in (
        ("steps", "Decode steps by where their length came from.", "source", counters.steps_by_source),
        ("steps_by_length", "Decode steps by length.", "num_steps", counters.steps_by_num_steps),
        ("fallbacks", "Steps without a valid lease, by reason.", "reason", counters.fallbacks_by_reason),
        ("decision_reasons", "Decisions by reason.", "reason", counters.decisions_by_reason),
        ("telemetry_dropped", "Step records lost or refused, by cause.", "cause", counters.drops_by_cause),
        (
            "accepted_tokens_per_position",
            "Accepted drafts by position, from 1.",
            "position",
            _by_position(entry),
        ),
    ):
        family = families.counter(name, help_text, (*ENGINE, label))
        for key, count in counts.items():
            family.add_metric([engine_id, str(key)], count)
    families.histogram("step_duration_seconds", "Duration of decode steps.", engine_id, counters.step_seconds)
    families.histogram(
        "answer_duration_seconds",
        "From a request's arrival to its answer's departure.",
        engine_id,
        counters.answer_seconds,
    )
    families.histogram(
        "step_time_error_ratio", "Relative error of step times predicted beforehand.", engine_id,
        counters.step_time_error_ratio,
    )  # fmt: skip
    _add_gauges(families, entry)


def _by_position(entry: EngineEntry) -> dict[int, int]:
    return dict(enumerate(entry.session.counters.accepted_by_position, start=1))


def _add_gauges(families: _Families, entry: EngineEntry) -> None:
    session = entry.session
    engine_id = session.profile.engine_id
    rates = session.counters.window.rates()
    decision = session.decisions[-1] if session.decisions else None
    predictions = (
        {p.num_steps: p.goodput_tokens_per_s for p in decision.choice.predictions} if decision else {}
    )
    newest = session.newest_step
    nan = float("nan")
    for name, help_text, value in (
        ("engine_connected", "Whether the engine has an open decision stream.", float(entry.connected)),
        ("num_steps", "Speculation length of the newest step.", newest.num_steps if newest else nan),
        ("running_requests", "Requests in the newest step.", newest.batch_size if newest else nan),
        (
            "waiting_requests",
            "Requests queued at the newest step.",
            newest.waiting_requests if newest else nan,
        ),
        ("context_tokens", "Context tokens of the newest step.", newest.context_tokens if newest else nan),
        ("model_generation", "Refits of the models.", session.models.generation),
        (
            "step_time_model_ready",
            "Whether the step-time fit is used.",
            float(session.models.step_time.fit is not None),
        ),
        (
            "goodput_tokens_per_second",
            "Committed tokens a second, measured of late.",
            rates.goodput_tokens_per_s,
        ),
        (
            "predicted_goodput_tokens_per_second",
            "Forecast for the length decided last.",
            predictions.get(decision.choice.num_steps, nan) if decision else nan,
        ),
        (
            "predicted_goodput_without_speculation_tokens_per_second",
            "Forecast for length 0.",
            predictions.get(0, nan),
        ),
    ):
        families.gauge(name, help_text).add_metric([engine_id], value)
    modes = families.gauge("mode", "1 for the mode in force.", ("mode",))
    for mode in Mode:
        modes.add_metric([engine_id, mode.name.lower()], float(mode is session.mode))
