"""Reads every metric when asked: by a scrape of Prometheus, or to push over OTLP.

Nothing is written per step here. A scrape is rendered in a thread of its own, so it
asks the event loop, the only writer of what is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from control_service.server.metrics.forecast_measures import FORECAST_MEASURES
from control_service.server.metrics.measure import Families
from control_service.server.metrics.service_measures import SERVICE_MEASURES, ServiceSources
from control_service.server.metrics.step_measures import STEP_MEASURES

SCRAPE_TIMEOUT_S = 5.0
ENGINE_LABELS = ("engine_id",)
ENGINE_MEASURES = STEP_MEASURES + FORECAST_MEASURES


class ServiceCollector(Collector):
    """All metric families, built from the sessions each time."""

    def __init__(self, sources: ServiceSources) -> None:
        self._sources = sources
        self._process = ProcessCollector(registry=None)
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterable[Metric]:
        """Nothing up front, so that registering does not scrape."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Called in a thread of its own, and about the process too; empty once the loop is gone."""
        if self._loop.is_closed():
            return []
        ours = asyncio.run_coroutine_threadsafe(self.families(), self._loop).result(SCRAPE_TIMEOUT_S)
        return [*ours, *self._process.collect()]

    async def families(self) -> list[Metric]:
        """Every family that has a series. Called on the event loop."""
        engines = Families(ENGINE_MEASURES, ENGINE_LABELS)
        for entry in self._sources.registry:
            engines.add(entry, (entry.session.profile.engine_id,))
            # Answers must not wait for a scrape of many engines.
            await asyncio.sleep(0)
        service = Families(SERVICE_MEASURES)
        service.add(self._sources)
        return [*service.filled(), *engines.filled()]
