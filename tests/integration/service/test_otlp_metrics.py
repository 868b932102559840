"""Metrics pushed over OTLP to a real receiver are the metrics that Prometheus scrapes."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from prometheus_client.parser import text_string_to_metric_families

from control_service.server.app import ControlService
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import (
    Physics,
    cheap_drafts,
    connected_engine,
    make_profile,
)

STEPS = 80
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Receiver(MetricsServiceServicer):
    """An OTLP metrics receiver; keeps what it is sent."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.arrived = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        add_MetricsServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def Export(self, request: ExportMetricsServiceRequest, context: Any) -> ExportMetricsServiceResponse:
        self.requests.append(request)
        self.arrived.set()
        return ExportMetricsServiceResponse()

    def stop(self) -> None:
        self._server.stop(0).wait(5)

    def series(self) -> Series:
        """Of the newest request, by Prometheus' name and labels."""
        (resource,) = self.requests[-1].resource_metrics
        (scope,) = resource.scope_metrics
        found: Series = {}
        for metric in scope.metrics:
            kind = metric.WhichOneof("data")
            for point in getattr(metric, kind).data_points:
                labels = frozenset((a.key, a.value.string_value) for a in point.attributes)
                if kind == "histogram":
                    found[f"{metric.name}_count", labels] = point.count
                    found[f"{metric.name}_sum", labels] = point.sum
                else:
                    name = f"{metric.name}_total" if kind == "sum" else metric.name
                    found[name, labels] = getattr(point, point.WhichOneof("value"))
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver) -> ServiceSettings:
    return ServiceSettings(
        listen=f"unix:{tmp_path}/control.sock",
        metrics_listen="127.0.0.1:0",
        otlp_metrics_endpoint=f"http://127.0.0.1:{receiver.port}",
        otlp_metrics_interval_s=0.2,
        shutdown_grace_s=0.2,
    )


@pytest.fixture
async def service(settings: ServiceSettings) -> AsyncIterator[ControlService]:
    running = ControlService(settings)
    await running.start()
    yield running
    await running.stop()


async def scraped(service: ControlService) -> Series:
    url = f"http://{service.metrics_address}/metrics"
    body = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if family.name.startswith("turbospec_") and not sample.name.endswith("_bucket")
    }


async def test_what_is_pushed_is_what_is_scraped(service: ControlService, receiver: Receiver) -> None:
    async with connected_engine(
        str(service.addresses[0]), make_profile(), Physics(0.8, cheap_drafts)
    ) as engine:
        await engine.run(STEPS, 2)
        await engine.flush()
        # Nothing moves any more: what comes next is as of now.
        receiver.arrived.clear()
        assert await asyncio.to_thread(receiver.arrived.wait, 10)
        receiver.arrived.clear()
        assert await asyncio.to_thread(receiver.arrived.wait, 10)
        pushed, expected = receiver.series(), await scraped(service)
    own = {key for key in expected if key[0] == "turbospec_otlp_pushes_total"}
    assert own
    # What counts the pushes has moved on by one or two since the push.
    assert {key: value for key, value in pushed.items() if key not in own} == {
        key: value for key, value in expected.items() if key not in own
    }
    lease = ("turbospec_steps_total", frozenset({("engine_id", "engine-a"), ("source", "lease")}))
    assert pushed[lease] == STEPS


async def test_points_say_whose_they_are_and_since_when(service: ControlService, receiver: Receiver) -> None:
    assert await asyncio.to_thread(receiver.arrived.wait, 10)
    (resource,) = receiver.requests[-1].resource_metrics
    about = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert about["service.name"] == "turbospec-control"
    assert about["service.version"]
    for metric in resource.scope_metrics[0].metrics:
        if metric.HasField("sum"):
            assert metric.sum.is_monotonic
            assert metric.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
            for point in metric.sum.data_points:
                assert 0 < point.start_time_unix_nano <= point.time_unix_nano


async def test_a_receiver_that_is_away_costs_nothing_but_a_count(
    service: ControlService, receiver: Receiver
) -> None:
    assert await asyncio.to_thread(receiver.arrived.wait, 10)
    receiver.stop()
    failed = ("turbospec_otlp_pushes_total", frozenset({("outcome", "failed")}))
    async with asyncio.timeout(30):
        while failed not in await scraped(service):
            await asyncio.sleep(0.1)
    async with connected_engine(
        str(service.addresses[0]), make_profile(), Physics(0.8, cheap_drafts)
    ) as engine:
        await engine.run(8, 2)
    again = Receiver(receiver.port)
    try:
        assert await asyncio.to_thread(again.arrived.wait, 30)
    finally:
        again.stop()


@pytest.mark.parametrize("endpoint", ["collector:4317", "http://", "ftp://a:1", "http://a:1/v1/metrics"])
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="otlp_metrics_endpoint"):
        ServiceSettings(otlp_metrics_endpoint=endpoint)
