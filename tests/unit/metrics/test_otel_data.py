"""Prometheus families as OpenTelemetry data: the same values, and since when they count."""

from __future__ import annotations

from opentelemetry.sdk.metrics.export import Gauge, Histogram, MetricsData, Sum
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from control_service.server.metrics.otel_data import OtelTranslator


def translator(now_ns: int = 100) -> OtelTranslator:
    return OtelTranslator(Resource({"service.name": "test"}), InstrumentationScope("test"), now_ns)


def counter(value: float) -> Metric:
    family = CounterMetricFamily("turbospec_steps", "Steps.", labels=("engine_id", "source"))
    family.add_metric(("a", "lease"), value)
    return family


def only(data: MetricsData) -> Sum | Gauge | Histogram:
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    (metric,) = scope.metrics
    assert isinstance(metric.data, Sum | Gauge | Histogram)
    return metric.data


def test_a_counter_is_a_monotonic_sum_under_its_name_without_total() -> None:
    data = translator().translate([counter(7)], 200)
    metric = data.resource_metrics[0].scope_metrics[0].metrics[0]
    assert (metric.name, metric.description) == ("turbospec_steps", "Steps.")
    total = only(data)
    assert isinstance(total, Sum)
    assert total.is_monotonic
    (point,) = total.data_points
    assert (point.value, point.attributes) == (7, {"engine_id": "a", "source": "lease"})


def test_a_counter_counts_since_before_it_appeared_or_fell() -> None:
    made = translator(100)
    starts = []
    for now_ns, value in ((200, 5), (300, 9), (400, 2), (500, 3)):
        (point,) = only(made.translate([counter(value)], now_ns)).data_points
        starts.append(point.start_time_unix_nano)
        assert point.time_unix_nano == now_ns
    # It fell between 300 and 400: another epoch of the engine, which counts since then.
    assert starts == [100, 100, 300, 300]


def test_what_has_gone_is_forgotten() -> None:
    made = translator(100)
    made.translate([counter(5)], 200)
    made.translate([], 300)
    (point,) = only(made.translate([counter(6)], 400)).data_points
    assert point.start_time_unix_nano == 300


def test_a_histogram_keeps_its_buckets_count_and_sum() -> None:
    family = HistogramMetricFamily("turbospec_step_duration_seconds", "Steps.", labels=("engine_id",))
    family.add_metric(("a",), [("0.1", 2), ("0.5", 5), ("+Inf", 6)], 3.5)
    family.add_metric(("b",), [("0.1", 0), ("0.5", 0), ("+Inf", 1)], 9.0)
    data = translator().translate([family], 200)
    assert data.resource_metrics[0].scope_metrics[0].metrics[0].unit == "s"
    histogram = only(data)
    assert isinstance(histogram, Histogram)
    first, second = histogram.data_points
    assert (first.count, first.sum, first.attributes) == (6, 3.5, {"engine_id": "a"})
    assert (list(first.bucket_counts), list(first.explicit_bounds)) == ([2, 3, 1], [0.1, 0.5])
    assert list(second.bucket_counts) == [0, 0, 1]


def test_a_gauge_is_a_gauge() -> None:
    family = GaugeMetricFamily("turbospec_num_steps", "Length.", labels=("engine_id",))
    family.add_metric(("a",), 3)
    gauge = only(translator().translate([family], 200))
    assert isinstance(gauge, Gauge)
    assert [point.value for point in gauge.data_points] == [3]
