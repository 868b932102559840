"""One engine's models: what they estimate, and how that compares with what was measured."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards.panels import RATE, RATIO, SECONDS, lines, quantile, query

# Of the engine that was chosen.
E: Final = 'engine_id="$engine"'


def acceptance(engine: Dashboard) -> Dashboard:
    """The row about accepted drafts."""
    return (
        engine.with_row(Row("Acceptance"))
        .with_panel(
            lines(
                "Acceptance by position, estimated",
                "Chance that the draft at a position is accepted, given that all before it were.",
                RATIO,
                query(f"turbospec_acceptance_probability_ratio{{{E}}}", "{{position}}"),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Drafts that reached a position",
                "Accepted tokens per draft, by position. It depends on the lengths that ran: a short one"
                " never reaches far.",
                RATIO,
                query(
                    f"sum by (position) (rate(turbospec_accepted_tokens_per_position_total{{{E}}}[{RATE}]))"
                    f" / on () group_left () (sum(rate(turbospec_drafts_total{{{E}}}[{RATE}])) > 0)",
                    "{{position}}",
                ),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Accepted over forecast",
                "Calibration of the acceptance model, over 15 minutes: 100 % is perfect.",
                RATIO,
                query(
                    f"engine_id:turbospec_acceptance_calibration:ratio_rate15m{{{E}}}", "accepted / forecast"
                ),
                span=8,
            )
        )
    )


def step_time(engine: Dashboard) -> Dashboard:
    """The row about how long steps take."""
    duration = "turbospec_step_duration_seconds_bucket"
    error = "turbospec_step_time_error_ratio_bucket"
    return (
        engine.with_row(Row("Step time"))
        .with_panel(
            lines(
                "Step time by length, measured",
                "Mean of the steps that ran it, whatever their batch was.",
                SECONDS,
                query(
                    f"sum by (num_steps) (rate(turbospec_step_seconds_total{{{E}}}[{RATE}]))"
                    f" / (sum by (num_steps) (rate(turbospec_steps_by_length_total{{{E}}}[{RATE}])) > 0)",
                    "{{num_steps}}",
                ),
                span=6,
            )
        )
        .with_panel(
            lines(
                "Step time by length, forecast",
                "For the batch of the newest decision.",
                SECONDS,
                query(f"turbospec_candidate_step_seconds{{{E}}}", "{{num_steps}}"),
                span=6,
            )
        )
        .with_panel(
            lines(
                "Step duration",
                "Of all steps.",
                SECONDS,
                quantile(0.5, duration, E, "p50"),
                quantile(0.99, duration, E, "p99"),
                span=6,
            )
        )
        .with_panel(
            lines(
                "Error of forecast step times",
                "Relative, as forecast just before each step was learned.",
                RATIO,
                quantile(0.5, error, E, "p50"),
                quantile(0.9, error, E, "p90"),
                span=6,
            )
        )
    )
