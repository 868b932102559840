"""What the service knows, as tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from control_service.cli.plain import enum_name
from control_service.cli.reasons import why
from turbospec.v1 import admin_pb2, control_pb2

UNKNOWN = "-"


def engines_view(answer: admin_pb2.ListEnginesResponse) -> RenderableType:
    """One table per engine."""
    if not answer.engines:
        return Text("no engine has connected to this service yet")
    return Group(*(engine_table(engine) for engine in answer.engines))


def engine_table(engine: admin_pb2.EngineStatus) -> Table:
    profile = engine.profile
    state = "connected" if engine.connected else "not connected"
    table = Table(title=f"{profile.engine_id}  ({state})", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in engine_rows(engine):
        table.add_row(label, value)
    return table


def engine_rows(engine: admin_pb2.EngineStatus) -> list[tuple[str, str]]:
    profile = engine.profile
    drafted = profile.algorithm + (f", draft {profile.draft_model}" if profile.draft_model else "")
    goodput = (
        f"{number(engine.goodput_tokens_per_s)} measured, "
        f"{number(engine.predicted_goodput_tokens_per_s)} predicted, "
        f"{number(engine.predicted_goodput_without_speculation_tokens_per_s)} predicted without speculation"
    )
    return [
        ("model", f"{profile.target_model} ({profile.dtype}, {profile.accelerator})"),
        ("algorithm", drafted),
        ("mode", mode_text(engine.mode, engine.canary_percent)),
        ("policy", f"{policy_text(engine)}, model generation {engine.model_generation}"),
        ("length in force", f"{engine.num_steps} of {', '.join(map(str, profile.candidate_num_steps))}"),
        ("batch", f"{engine.batch_size} requests, {engine.context_tokens} tokens of context"),
        ("acceptance rate", percent(engine.acceptance_rate)),
        ("mean accepted length", f"{number(engine.mean_accepted_length_tokens)} tokens a step"),
        ("goodput, tokens/s", goodput),
        ("steps", f"{engine.steps_total}, {engine.switches_total} switches of length"),
        ("steps by source", counts(engine.steps_by_source)),
        ("steps by length", counts(engine.steps_by_num_steps)),
        ("fallbacks by reason", counts(engine.fallbacks_by_reason)),
        ("telemetry dropped", counts(engine.drops_by_cause)),
        ("control per step, us", quantiles(engine.step_control_us)),
        ("wait for a lease, us", quantiles(engine.decision_wait_us)),
        ("service's answer, us", quantiles(engine.answer_us)),
    ]


def decision_view(decision: admin_pb2.ExplainDecisionResponse) -> Group:
    """What was decided and why, and what every other length was expected to do."""
    heading = Text(
        f"{decision.engine_id}, decision {decision.decision_id}: length {decision.num_steps} "
        f"for step {decision.step_index}\n"
        f"  because   {why(decision)} ({decision.reason})\n"
        f"  margin    {margin_text(decision)}\n"
        f"  batch     {decision.batch_size} requests, {decision.context_tokens} tokens of context, "
        f"{decision.waiting_requests} requests waiting\n"
        f"  policy    {decision.policy}, model generation {decision.model_generation}"
    )
    if not decision.candidates:
        return Group(heading)
    table = Table()
    for title in ("length", "tokens/step", "step, ms", "goodput, tokens/s", "lost against the best"):
        table.add_column(title, justify="right")
    for candidate in decision.candidates:
        chosen = " <" if candidate.num_steps == decision.num_steps else ""
        tokens, step_ms = candidate.expected_tokens, candidate.expected_step_s * 1e3
        goodput = candidate.goodput_tokens_per_s
        table.add_row(
            f"{candidate.num_steps}{chosen}",
            with_error(tokens, tokens * candidate.tokens_standard_error_ratio),
            with_error(step_ms, step_ms * candidate.step_standard_error_ratio),
            with_error(goodput, candidate.goodput_standard_error_tokens_per_s),
            percent(candidate.regret_ratio),
        )
    return Group(heading, table)


def margin_text(decision: admin_pb2.ExplainDecisionResponse) -> str:
    """What the length was expected to gain over the best of the others."""
    if not decision.HasField("margin"):
        return "not known, the models were not ready"
    margin = decision.margin
    return (
        f"{margin.gain_ratio:+.1%} ± {percent(margin.gain_standard_error_ratio)} against length "
        f"{margin.runner_up_num_steps}, {margin.gain_standard_errors:+.1f} standard errors"
    )


def with_error(value: float, standard_error: float) -> str:
    return f"{number(value)} ± {number(standard_error)}"


def policy_text(engine: admin_pb2.EngineStatus) -> str:
    """`static (num_steps=3)`, and for how long, if not for good."""
    parameters = ", ".join(f"{name}={value}" for name, value in sorted(engine.policy_parameters.items()))
    text = f"{engine.policy} ({parameters})" if parameters else engine.policy
    left_s = engine.policy_hold_left_ms / 1e3
    return f"{text} for {left_s:.0f} s more" if left_s else text


def mode_text(mode: control_pb2.Mode, canary_percent: int) -> str:
    name = enum_name(control_pb2.Mode.Name(mode))
    return f"{name} {canary_percent} %" if mode == control_pb2.MODE_CANARY else name


def number(value: float) -> str:
    """Three significant digits, none lost before the point."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(ratio: float) -> str:
    return f"{ratio:.1%}" if math.isfinite(ratio) else UNKNOWN


def counts(by_name: Mapping[str, int] | Mapping[int, int]) -> str:
    """`lease 90, fallback 10`, most frequent first."""
    ordered = sorted(by_name.items(), key=lambda item: (-item[1], str(item[0])))
    return ", ".join(f"{name} {count}" for name, count in ordered) or UNKNOWN


def quantiles(value: admin_pb2.Quantiles) -> str:
    if value.count == 0:
        return UNKNOWN
    return f"p50 {number(value.p50)}, p99 {number(value.p99)}, max {number(value.max)}"
