"""The control service itself: how fast it answers, what it carries and what it refuses."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards.panels import RATE, SECONDS, lines, quantile, query, rows_of

# Of the engines that were chosen.
E: Final = 'engine_id=~"$engine"'


def service(fleet: Dashboard) -> Dashboard:
    """The row about it."""
    errors, refused = "turbospec_store_errors_total", "turbospec_streams_refused_total"
    answer, job = "turbospec_answer_duration_seconds_bucket", '{job="turbospec"}'
    return (
        fleet.with_row(Row("The control service"))
        .with_panel(
            lines(
                "Answer time",
                "From a request's arrival to its answer's departure.",
                SECONDS,
                quantile(0.5, answer, E, "p50"),
                quantile(0.99, answer, E, "p99"),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Load",
                "Decisions answered and spans received; superseded requests had a newer one behind them.",
                "ops",
                query(f"sum(rate(turbospec_decisions_total{{{E}}}[{RATE}]))", "decisions"),
                query(f"sum(rate(turbospec_spans_received_total[{RATE}]))", "spans"),
                query(f"sum(rate(turbospec_requests_superseded_total[{RATE}]))", "superseded"),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Store and limits",
                "Loads and saves of what was learned that failed, saves, and requests beyond the limit.",
                "ops",
                query(f"sum by (operation) (rate({errors}[{RATE}]))", "{{operation}} failed"),
                query(f"sum(rate(turbospec_requests_rate_limited_total[{RATE}]))", "requests limited"),
                query(f"sum(rate(turbospec_store_saves_total[{RATE}]))", "saves"),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Process",
                "CPU seconds per second, and resident memory (right).",
                "none",
                query(f"sum(rate(process_cpu_seconds_total{job}[{RATE}]))", "CPU"),
                query(f"sum(process_resident_memory_bytes{job}) / 1e6", "memory, MB"),
                span=8,
                right="/memory/",
            )
        )
        .with_panel(
            lines(
                "Streams",
                "Open, and refused by cause per second (right).",
                "none",
                query("sum(turbospec_streams_open)", "open"),
                query(f"sum by (cause) (rate({refused}[{RATE}]))", "refused: {{cause}}"),
                span=8,
                right="/refused/",
            )
        )
        .with_panel(
            rows_of(
                "Services",
                "Up, and what they run.",
                "instance",
                [
                    ("up", 'max by (instance) (up{job="turbospec"})', "bool_yes_no"),
                    ("engines", "max by (instance) (turbospec_engines_connected)", "none"),
                ],
                about="max by (instance, version, python_version) (turbospec_build_info)",
                labels={"version": "version", "python_version": "Python"},
                span=8,
            )
        )
    )  # fmt: skip
