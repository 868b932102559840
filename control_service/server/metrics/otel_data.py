"""From Prometheus families to OpenTelemetry's metrics data: the same names, labels and values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as OtelMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric

SeriesKey = tuple[str, frozenset[tuple[str, str]]]


class OtelTranslator:
    """Makes cumulative points. Remembers the last value of each counter, since a point must say since when
    it counts: since the translation before its first appearance, or before its fall (another engine epoch).
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope, now_ns: int) -> None:
        self._resource = resource
        self._scope = scope
        self._previous_ns = now_ns
        # Start and last value; only of series in the newest translation, so it is bounded as they are.
        self._series: dict[SeriesKey, tuple[int, float]] = {}

    def translate(self, families: Iterable[Metric], now_ns: int) -> MetricsData:
        """All families as of `now_ns`, in nanoseconds since 1970."""
        before, self._series = self._series, {}
        metrics = [self._metric(family, before, now_ns) for family in families]
        self._previous_ns = now_ns
        scope = ScopeMetrics(self._scope, metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, family: Metric, before: dict[SeriesKey, tuple[int, float]], now_ns: int) -> OtelMetric:
        cumulative = AggregationTemporality.CUMULATIVE
        data: Gauge | Sum | Histogram
        if family.type == "histogram":
            data = Histogram(self._histogram_points(family, before, now_ns), cumulative)
        elif family.type == "counter":
            data = Sum(
                [
                    NumberDataPoint(
                        s.labels, self._start(family.name, s.labels, s.value, before), now_ns, s.value
                    )
                    for s in family.samples
                ],
                cumulative,
                is_monotonic=True,
            )
        else:
            data = Gauge([NumberDataPoint(s.labels, now_ns, now_ns, s.value) for s in family.samples])
        unit = "s" if family.name.endswith("_seconds") else ""
        return OtelMetric(family.name, family.documentation, unit, data)

    def _histogram_points(
        self, family: Metric, before: dict[SeriesKey, tuple[int, float]], now_ns: int
    ) -> list[HistogramDataPoint]:
        buckets: defaultdict[frozenset[tuple[str, str]], list[tuple[float, int]]] = defaultdict(list)
        sums: dict[frozenset[tuple[str, str]], float] = {}
        for sample in family.samples:
            labels = frozenset((name, value) for name, value in sample.labels.items() if name != "le")
            if sample.name.endswith("_bucket"):
                buckets[labels].append((float(sample.labels["le"]), int(sample.value)))
            elif sample.name.endswith("_sum"):
                sums[labels] = sample.value
        points = []
        for key, cumulative in buckets.items():
            attributes, count = dict(key), cumulative[-1][1]
            points.append(
                HistogramDataPoint(
                    attributes=attributes,
                    start_time_unix_nano=self._start(family.name, attributes, count, before),
                    time_unix_nano=now_ns,
                    count=count,
                    sum=sums[key],
                    bucket_counts=[
                        cumulative[0][1],
                        *(upper[1] - lower[1] for lower, upper in pairwise(cumulative)),
                    ],
                    explicit_bounds=[bound for bound, _ in cumulative[:-1]],
                    # Not known; OTLP leaves them out then, which the SDK's type does not provide for.
                    min=None,  # type: ignore[arg-type]
                    max=None,  # type: ignore[arg-type]
                )
            )
        return points

    def _start(
        self, name: str, labels: dict[str, str], value: float, before: dict[SeriesKey, tuple[int, float]]
    ) -> int:
        key = (name, frozenset(labels.items()))
        start_ns, last = before.get(key, (self._previous_ns, value))
        if value < last:
            start_ns = self._previous_ns
        self._series[key] = (start_ns, value)
        return start_ns
