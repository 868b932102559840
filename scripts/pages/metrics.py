"""docs/metrics.md: every metric of the control service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control_service.server.metrics.collector import ENGINE_MEASURES
from control_service.server.metrics.measure import Label, Measure
from control_service.server.metrics.service_measures import SERVICE_MEASURES

_HEAD = """\
# Metrics

The control service serves these at `/metrics` of `--metrics-listen` (`127.0.0.1:9464`), and beside them the
`process_*` metrics of its own process (CPU, memory, file descriptors, start time).

With `--otlp-metrics-endpoint http://host:4317` it pushes the same names, labels and values over OTLP as well;
counters lack `_total` there, which a collector's Prometheus exporter adds.

Times are in seconds. Counters begin at 0 when the service starts, and an engine's also when that engine does.
What is not known yet has no series: forecasts are missing until the models are ready. What to make of the
values: [operating.md](operating.md).

The number of series is bounded: at most `--engines-max` engines, and for each label as many values as said.
"""


def render() -> str:
    """The page, in Markdown."""
    parts = [
        _HEAD,
        "## Of an engine\n\nEach has the label `engine_id`, and those named here.\n",
        *_entries(ENGINE_MEASURES),
        "## Of the service\n",
        *_entries(SERVICE_MEASURES),
    ]
    return "\n".join(parts)


def _entries(measures: Iterable[Measure[Any]]) -> Iterable[str]:
    for measure in measures:
        lines = [f"### `{measure.exposed_name}`", "", f"*{measure.kind}*. {measure.meaning}", ""]
        lines += [_label(label) for label in measure.labels]
        if measure.labels:
            lines.append("")
        yield "\n".join(lines)


def _label(label: Label) -> str:
    many = f" (at most {label.values_max} values)" if label.values_max > 1 else ""
    return f"- `{label.name}`: {label.meaning}{many}"
