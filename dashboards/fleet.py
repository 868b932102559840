"""All engines: does speculation pay, where does it not, and what is falling back?"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards.fleet_service import E, service
from dashboards.panels import (
    BAD,
    GOOD,
    MIDDLING,
    RATE,
    RATIO,
    TOKENS_PER_SECOND,
    board,
    engine_variable,
    lines,
    number,
    query,
    rows_of,
)


def build() -> Dashboard:
    """The dashboard."""
    fleet = board("TurboSpec / fleet", "turbospec-fleet", __doc__ or "")
    fleet = fleet.with_variable(engine_variable(several=True))
    for part in (_paying, _where_not, _falling_back, service):
        fleet = part(fleet)
    return fleet


def _paying(fleet: Dashboard) -> Dashboard:
    zero = f'sum(rate(turbospec_committed_tokens_total{{{E}, num_steps="0"}}[{RATE}]))'
    return (
        fleet.with_row(Row("Is speculation paying?"))
        .with_panel(
            number(
                "Tokens against no speculation",
                "Committed tokens over those forecast without speculation. Below 100 % it costs.",
                RATIO,
                query(
                    f"(sum(rate(turbospec_speculated_tokens_total{{{E}}}[{RATE}])) + {zero})"
                    f" / (sum(rate(turbospec_tokens_without_speculation_total{{{E}}}[{RATE}])) + {zero})"
                ),
                colors=((None, BAD), (0.95, MIDDLING), (1.0, GOOD)),
            )
        )
        .with_panel(
            number(
                "Tokens",
                "Committed by decode steps per second of the clock, all engines together.",
                TOKENS_PER_SECOND,
                query(f"sum(rate(turbospec_committed_tokens_total{{{E}}}[{RATE}]))"),
            )
        )
        .with_panel(
            number(
                "Mean length",
                "Tokens a request commits in a step that drafts: 1 + accepted tokens / drafts.",
                "none",
                query(
                    f"1 + sum(rate(turbospec_accepted_tokens_total{{{E}}}[{RATE}]))"
                    f" / sum(rate(turbospec_drafts_total{{{E}}}[{RATE}]))"
                ),
            )
        )
        .with_panel(
            number(
                "Engines connected",
                "With an open decision stream.",
                "none",
                query(f"sum(turbospec_engine_connected{{{E}}})"),
                colors=((None, BAD), (1.0, GOOD)),
            )
        )
        .with_panel(
            number(
                "Steps without a lease",
                "Of those that wanted one. They ran without speculation.",
                RATIO,
                query(
                    f'sum(rate(turbospec_steps_total{{{E}, source="fallback"}}[{RATE}]))'
                    f' / sum(rate(turbospec_steps_total{{{E}, source=~"lease|fallback"}}[{RATE}]))'
                ),
                colors=((None, GOOD), (0.01, MIDDLING), (0.06, BAD)),
            )
        )
        .with_panel(
            number(
                "Alerts firing",
                "Of this project, all engines.",
                "none",
                query('count(ALERTS{alertname=~"TurboSpec.+", alertstate="firing"}) or vector(0)'),
                colors=((None, GOOD), (1.0, BAD)),
            )
        )
        .with_panel(
            lines(
                "Tokens against no speculation",
                "By engine, over 5 minutes. 100 % is what length 0 was forecast to commit.",
                RATIO,
                query(f"engine_id:turbospec_payoff:ratio_rate5m{{{E}}}", "{{engine_id}}"),
            )
        )
        .with_panel(
            lines(
                "Goodput",
                "Committed tokens per second of decode steps, by engine, over 5 minutes.",
                TOKENS_PER_SECOND,
                query(f"engine_id:turbospec_goodput_tokens_per_second:ratio_rate5m{{{E}}}", "{{engine_id}}"),
            )
        )
    )


def _where_not(fleet: Dashboard) -> Dashboard:
    by_length = "turbospec_steps_by_length_total"
    return (
        fleet.with_row(Row("Where not?"))
        .with_panel(
            rows_of(
                "Engines",
                "As of now. Gain: tokens against no speculation, over 5 minutes.",
                "engine_id",
                [
                    ("gain", f"engine_id:turbospec_payoff:ratio_rate5m{{{E}}}", RATIO),
                    ("regret", f"engine_id:turbospec_regret:ratio_rate5m{{{E}}}", RATIO),
                    ("length", f"max by (engine_id) (turbospec_num_steps{{{E}}})", "none"),
                    ("requests", f"max by (engine_id) (turbospec_running_requests{{{E}}})", "none"),
                    (
                        "connected", f"max by (engine_id) (turbospec_engine_connected{{{E}}})", "bool_yes_no",
                    ),
                ],
                about="max by (engine_id, algorithm, policy, sglang_version, accelerator)"
                f" (turbospec_engine_info{{{E}}})",
                labels={
                    "algorithm": "algorithm",
                    "policy": "policy",
                    "sglang_version": "SGLang",
                    "accelerator": "accelerator",
                },
            )
        )
        .with_panel(
            lines(
                "Regret",
                "Share of the best length's expected tokens given up, by probes or by another policy.",
                RATIO,
                query(f"engine_id:turbospec_regret:ratio_rate5m{{{E}}}", "{{engine_id}}"),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Steps that draft",
                "Share of the decode steps with a length above 0.",
                RATIO,
                query(
                    f'sum by (engine_id) (rate({by_length}{{{E}, num_steps!="0"}}[{RATE}]))'
                    f" / (sum by (engine_id) (rate({by_length}{{{E}}}[{RATE}])) > 0)",
                    "{{engine_id}}",
                ),
                span=8,
            )
        )
        .with_panel(
            lines(
                "Forecasts",
                "Accepted drafts over those forecast (100 % is perfect), median error of step times (0 is).",
                RATIO,
                query(
                    f"engine_id:turbospec_acceptance_calibration:ratio_rate15m{{{E}}}",
                    "{{engine_id}} accepted / forecast",
                ),
                query(
                    f"engine_id:turbospec_step_time_error:median_rate15m{{{E}}}",
                    "{{engine_id}} step-time error",
                ),
                span=8,
            )
        )
    )  # fmt: skip


def _falling_back(fleet: Dashboard) -> Dashboard:
    return (
        fleet.with_row(Row("What is falling back?"))
        .with_panel(
            lines(
                "Steps by source",
                "Where the length of a step came from; `fallback` is the one to watch.",
                "ops",
                query(f"sum by (source) (rate(turbospec_steps_total{{{E}}}[{RATE}]))", "{{source}}"),
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
                span=8,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Steps without a lease",
                "By engine, over 5 minutes; the objective is below 1 %.",
                RATIO,
                query(f"engine_id:turbospec_steps_without_lease:ratio_rate5m{{{E}}}", "{{engine_id}}"),
                span=8,
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
                span=8,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Spans refused by cause",
                "By the service, also of engines that it does not know.",
                "ops",
                query(f"sum by (cause) (rate(turbospec_spans_rejected_total[{RATE}]))", "{{cause}}"),
                span=8,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Alerts",
                "Pending and firing.",
                "none",
                query(
                    'count by (alertname, alertstate) (ALERTS{alertname=~"TurboSpec.+"})',
                    "{{alertname}} {{alertstate}}",
                ),
                span=8,
                steps=True,
            )
        )
    )
