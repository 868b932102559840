"""Pushes the metrics to an OTLP receiver now and then, for those who run a collector instead of scraping."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from control_service.server.metrics.collector import ServiceCollector
from control_service.server.metrics.otel_data import OtelTranslator

EXPORT_TIMEOUT_S: Final = 5.0
LAST_PUSH_TIMEOUT_S: Final = 1.0

_log = structlog.get_logger(__name__)
# The exporter logs every attempt; we say once that it fails, and once that it works again.
logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").setLevel(logging.CRITICAL)


class OtlpPusher:
    """One push at a time, in a thread of its own; a failed one is counted and not repeated.

    Values are cumulative, so the next push says what a lost one would have.
    """

    def __init__(
        self,
        collector: ServiceCollector,
        pushes: Counter[str],
        *,
        endpoint: str,
        interval_s: float,
        version: str,
    ) -> None:
        """endpoint: http://host:port in plain text, or https://host:port."""
        self._collector = collector
        self._pushes = pushes
        self._endpoint = endpoint
        self._interval_s = interval_s
        self._fails = False
        self._exporter = OTLPMetricExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
        resource = Resource.create(
            {
                "service.name": "turbospec-control",
                "service.version": version,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self._translator = OtelTranslator(
            resource, InstrumentationScope("turbospec", version), time.time_ns()
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="otlp-metrics")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to push."""
        self._task = asyncio.create_task(self._push_now_and_then())

    async def stop(self) -> None:
        """Push once more and let go of the channel."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            try:
                async with asyncio.timeout(LAST_PUSH_TIMEOUT_S):
                    await self.push()
            except TimeoutError:
                _log.warning("metrics_not_pushed", endpoint=self._endpoint, reason="the receiver is slow")
        # Ends a push under way: it must not hold up the exit.
        await asyncio.to_thread(self._exporter.shutdown)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def push(self) -> None:
        """Export what is known now."""
        families = await self._collector.families()
        data = self._translator.translate(families, time.time_ns())
        export = functools.partial(self._exporter.export, data)
        result = await asyncio.get_running_loop().run_in_executor(self._thread, export)
        failed = result is not MetricExportResult.SUCCESS
        self._pushes["failed" if failed else "delivered"] += 1
        if failed and not self._fails:
            _log.warning(
                "metrics_not_pushed", endpoint=self._endpoint, reason="the receiver did not take them"
            )
        elif self._fails and not failed:
            _log.info("metrics_pushed_again", endpoint=self._endpoint)
        self._fails = failed

    async def _push_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.push()
            except Exception:
                # A defect of ours: it must neither pass in silence nor end the pushing for good.
                _log.exception("metrics_not_pushed")
