"""One engine in depth: what length it runs, what that is expected to bring, what it brings, and why."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.common import BigValueTextMode

from dashboards.engine_models import E, acceptance, step_time
from dashboards.panels import (
    BAD,
    GOOD,
    MIDDLING,
    RATE,
    RATIO,
    SECONDS,
    TOKENS_PER_SECOND,
    board,
    engine_variable,
    lines,
    number,
    quantile,
    query,
    rows_of,
)


def build() -> Dashboard:
    """The dashboard."""
    engine = board("TurboSpec / engine", "turbospec-engine", __doc__ or "")
    engine = engine.with_variable(engine_variable(several=False))
    for part in (_now, _length, _goodput, acceptance, step_time, _why, _control):
        engine = part(engine)
    return engine


def _now(engine: Dashboard) -> Dashboard:
    return (
        engine.with_panel(
            number("Length", "Of the newest step.", "none", query(f"turbospec_num_steps{{{E}}}"), span=3)
        )
        .with_panel(
            number(
                "Mode", "In force now.", "none", query(f"turbospec_mode{{{E}}} == 1", "{{mode}}"), span=3,
            ).text_mode(BigValueTextMode.NAME)
        )
        .with_panel(
            number(
                "Policy", "Who decides.", "none",
                query(f"turbospec_engine_info{{{E}}}", "{{policy}}"), span=3,
            ).text_mode(BigValueTextMode.NAME)
        )
        .with_panel(
            number(
                "Connected", "Whether there is a decision stream.", "bool_yes_no",
                query(f"turbospec_engine_connected{{{E}}}"), span=3, colors=((None, BAD), (1.0, GOOD)),
            )
        )
        .with_panel(
            number(
                "Goodput", "Committed tokens per second of decode steps, of late.", TOKENS_PER_SECOND,
                query(f"turbospec_goodput_tokens_per_second{{{E}}}"),
            )
        )
        .with_panel(
            number(
                "Against no speculation", "Committed tokens over those forecast without it, over 5 minutes.",
                RATIO,
                query(f"engine_id:turbospec_payoff:ratio_rate5m{{{E}}}"),
                colors=((None, BAD), (0.95, MIDDLING), (1.0, GOOD)),
            )
        )
        .with_panel(
            number(
                "Regret", "Share of the best length's expected tokens that was given up, over 5 minutes.",
                RATIO,
                query(f"engine_id:turbospec_regret:ratio_rate5m{{{E}}}"),
                colors=((None, GOOD), (0.05, MIDDLING), (0.2, BAD)),
            )
        )
    )  # fmt: skip


def _length(engine: Dashboard) -> Dashboard:
    return (
        engine.with_row(Row("Length"))
        .with_panel(
            lines(
                "Length over time against batch size",
                "Of the newest step, and the one decided last; running and waiting requests on the right.",
                "none",
                query(f"turbospec_num_steps{{{E}}}", "length"),
                query(f"turbospec_decided_num_steps{{{E}}}", "decided"),
                query(f"turbospec_running_requests{{{E}}}", "running requests"),
                query(f"turbospec_waiting_requests{{{E}}}", "waiting requests"),
                steps=True,
                right="/requests/",
            )
        )
        .with_panel(
            lines(
                "Steps by length",
                "Decode steps per second.",
                "ops",
                query(
                    f"sum by (num_steps) (rate(turbospec_steps_by_length_total{{{E}}}[{RATE}]))",
                    "{{num_steps}}",
                ),
                stacked=True,
            )
        )
    )


def _goodput(engine: Dashboard) -> Dashboard:
    by_length = (
        f"sum by (num_steps) (rate(turbospec_committed_tokens_total{{{E}}}[{RATE}]))"
        f" / (sum by (num_steps) (rate(turbospec_step_seconds_total{{{E}}}[{RATE}])) > 0)"
    )
    by_source = (
        f"sum by (source) (rate(turbospec_committed_tokens_by_source_total{{{E}}}[{RATE}]))"
        f" / (sum by (source) (rate(turbospec_step_seconds_by_source_total{{{E}}}[{RATE}])) > 0)"
    )
    return (
        engine.with_row(Row("Goodput"))
        .with_panel(
            lines(
                "Goodput",
                "Measured, as forecast for the length decided, and as forecast without speculation.",
                TOKENS_PER_SECOND,
                query(f"turbospec_goodput_tokens_per_second{{{E}}}", "measured"),
                query(f"turbospec_predicted_goodput_tokens_per_second{{{E}}}", "forecast"),
                query(
                    f"turbospec_predicted_goodput_without_speculation_tokens_per_second{{{E}}}",
                    "forecast without speculation",
                ),
                span=6,
            )
        )
        .with_panel(
            lines(
                "Goodput by length, measured",
                "Of the steps that ran it, whatever their batch was.",
                TOKENS_PER_SECOND,
                query(by_length, "{{num_steps}}"),
                span=6,
            )
        )
        .with_panel(
            lines(
                "Goodput by source, measured",
                "Whether a canary pays: lease is what was decided, launch_length the blocks beside it.",
                TOKENS_PER_SECOND,
                query(by_source, "{{source}}"),
                span=6,
            )
        )
        .with_panel(
            lines(
                "Goodput by length, forecast",
                "For the batch of the newest decision.",
                TOKENS_PER_SECOND,
                query(f"turbospec_candidate_goodput_tokens_per_second{{{E}}}", "{{num_steps}}"),
                span=6,
            )
        )
    )


def _why(engine: Dashboard) -> Dashboard:
    return (
        engine.with_row(Row("Why the last decisions?"))
        .with_panel(
            lines(
                "Decisions by reason",
                "Which rule decided; docs/operating.md says what each means.",
                "ops",
                query(f"sum by (reason) (rate(turbospec_decisions_total{{{E}}}[{RATE}]))", "{{reason}}"),
                span=8,
                stacked=True,
            )
        )
        .with_panel(
            rows_of(
                "The newest decision",
                "What each length was forecast to bring. `turbospec explain` says it in words.",
                "num_steps",
                [
                    (
                        "goodput",
                        f"turbospec_candidate_goodput_tokens_per_second{{{E}}}",
                        TOKENS_PER_SECOND,
                    ),
                    (
                        "standard error",
                        f"turbospec_candidate_goodput_standard_error_tokens_per_second{{{E}}}",
                        TOKENS_PER_SECOND,
                    ),
                    ("step time", f"turbospec_candidate_step_seconds{{{E}}}", SECONDS),
                ],
                span=8,
            )
        )
        .with_panel(
            lines(
                "Switches",
                "Changes of the decided length per 1,000 steps, over 30 minutes; refits on the right.",
                "none",
                query(f"1000 * engine_id:turbospec_switches_per_step:ratio_rate30m{{{E}}}", "switches"),
                query(f"turbospec_model_generation{{{E}}}", "generation"),
                span=8,
                right="/generation/",
            )
        )
    )


def _control(engine: Dashboard) -> Dashboard:
    control = "turbospec_control_seconds_bucket"
    wait = "turbospec_decision_wait_seconds_bucket"
    return (
        engine.with_row(Row("Control"))
        .with_panel(
            lines(
                "Cost on the step thread",
                "Our code's time in a step, and its wait for a lease.",
                SECONDS,
                quantile(0.5, control, E, "control p50"),
                quantile(0.99, control, E, "control p99"),
                quantile(0.99, wait, E, "wait p99"),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Link to the service",
                "The state it is in: `fresh` is the one it should be in.",
                "none",
                query(f"turbospec_link_state{{{E}}} == 1", "{{state}}"),
                span=8,
                steps=True,
            )
        )
        .with_panel(
            lines(
                "Answers refused and requests dropped",
                "Answers that the engine refused to obey, by cause, and requests it dropped for newer ones.",
                "ops",
                query(f"sum by (cause) (rate(turbospec_lease_refusals_total{{{E}}}[{RATE}]))", "{{cause}}"),
                query(f"sum(rate(turbospec_dropped_asks_total{{{E}}}[{RATE}]))", "requests dropped"),
                span=8,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Fallbacks by reason",
                "Steps that had no lease in time.",
                "ops",
                query(f"sum by (reason) (rate(turbospec_fallbacks_total{{{E}}}[{RATE}]))", "{{reason}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Telemetry dropped by cause",
                "Step records that did not reach a model.",
                "ops",
                query(
                    f"sum by (cause) (rate(turbospec_telemetry_dropped_total{{{E}}}[{RATE}]))", "{{cause}}"
                ),
                stacked=True,
            )
        )
    )
