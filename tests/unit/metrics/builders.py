"""Sources of metrics without a server."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import cast

from prometheus_client.core import Metric

from control_service.core.registry import EngineRegistry
from control_service.core.session import LeaseTerms
from control_service.core.types import Mode
from control_service.server.admin_guard import AdminGuard
from control_service.server.decide import DecideServicer
from control_service.server.learned import LearnedKeeper
from control_service.server.metrics import ServiceCollector, ServiceSources
from control_service.server.trace import TraceServicer


def registry(engines_max: int = 4) -> EngineRegistry:
    return EngineRegistry(engines_max=engines_max, mode=Mode.ENFORCE, terms=LeaseTerms())


def sources(engines: EngineRegistry) -> ServiceSources:
    """Servicers are only what is read of them."""
    decide = SimpleNamespace(
        refused_by_cause=Counter[str](), superseded_total=0, rate_limited_total=0, streams_open=0
    )
    learned = SimpleNamespace(
        errors_by_operation=Counter[str](), refused_total=0, loads_total=0, saves_total=0
    )
    admin = SimpleNamespace(denied_by_cause=Counter[str]())
    trace = SimpleNamespace(spans_total=0, foreign_spans_total=0, drops_by_cause=Counter[str]())
    return ServiceSources(
        engines,
        cast(DecideServicer, decide),
        cast(TraceServicer, trace),
        cast(LearnedKeeper, learned),
        cast(AdminGuard, admin),
        "0",
    )


async def scrape(engines: EngineRegistry) -> list[Metric]:
    return await ServiceCollector(sources(engines)).families()
