"""What a metric is: its name, type, labels and meaning, and how its value is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from control_service.core.counters import Histogram

PREFIX = "turbospec_"

Source = TypeVar("Source")
# Label values, in the order of the labels, and the value.
Point: TypeAlias = tuple[tuple[str, ...], float]
Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@dataclass(frozen=True, slots=True)
class Label:
    """A label and how many values it can have at most, so that the number of series is bounded."""

    name: str
    meaning: str
    values_max: int


@dataclass(frozen=True, slots=True)
class Measure(Generic[Source]):
    """One metric of a source: an engine, or the service itself.

    `read` gives points, or the histogram; an unknown value is no point, since NaN would be a series as well.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    meaning: str
    read: Callable[[Source], Iterable[Point] | Histogram]
    labels: tuple[Label, ...] = ()

    @property
    def exposed_name(self) -> str:
        """As Prometheus knows it; a histogram's series add _bucket, _sum and _count."""
        return f"{PREFIX}{self.name}_total" if self.kind == "counter" else f"{PREFIX}{self.name}"

    def family(self, outer_labels: tuple[str, ...]) -> Family:
        """An empty family; `outer_labels` come before the measure's own."""
        name = PREFIX + self.name
        labels = (*outer_labels, *(label.name for label in self.labels))
        if self.kind == "counter":
            return CounterMetricFamily(name, self.meaning, labels=labels)
        if self.kind == "gauge":
            return GaugeMetricFamily(name, self.meaning, labels=labels)
        return HistogramMetricFamily(name, self.meaning, labels=labels)

    def add_to(self, family: Family, outer: tuple[str, ...], source: Source) -> None:
        """Read the source into the family."""
        value = self.read(source)
        if isinstance(family, HistogramMetricFamily):
            assert isinstance(value, Histogram)
            bounds = [*(repr(bound) for bound in value.bounds), "+Inf"]
            family.add_metric(outer, list(zip(bounds, value.cumulative(), strict=True)), value.sum)
            return
        assert not isinstance(value, Histogram)
        for labels, number in value:
            family.add_metric((*outer, *labels), number)


class Families(Generic[Source]):
    """One scrape's families of a list of measures, filled source by source."""

    def __init__(self, measures: tuple[Measure[Source], ...], outer_labels: tuple[str, ...] = ()) -> None:
        self._measures = [(measure, measure.family(outer_labels)) for measure in measures]

    def add(self, source: Source, outer: tuple[str, ...] = ()) -> None:
        """Read every measure of one source."""
        for measure, family in self._measures:
            measure.add_to(family, outer, source)

    def filled(self) -> list[Metric]:
        """Those with at least one series."""
        return [family for _, family in self._measures if family.samples]


def one(value: float | None) -> list[Point]:
    """A metric without labels of its own."""
    return [] if value is None or math.isnan(value) else [((), value)]


def by(values: Mapping[str, float] | Mapping[int, float]) -> list[Point]:
    """A metric with one label of its own."""
    return [((str(key),), value) for key, value in values.items()]
