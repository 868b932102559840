"""The last decisions of one engine and why, as JSON."""

from __future__ import annotations

from itertools import islice

from control_service.core.margin import margin_of, regret_ratio
from control_service.core.reasons import reason_sentence
from control_service.core.session import EngineSession
from control_service.core.types import Decision
from control_service.server.web.history import EngineHistory
from control_service.server.web.values import Json, number

# Decisions that say the same follow one another by the hundred: they are one row.
ROWS_MAX = 8
# Reading them holds up the answers of the service: half a millisecond for so many.
DECISIONS_READ_MAX = 512


def decisions_view(session: EngineSession, history: EngineHistory) -> list[Json]:
    """Newest first: runs of decisions with the same length and reason, each told by its first one."""
    runs: list[list[Decision]] = []
    for decision in islice(reversed(session.decisions), DECISIONS_READ_MAX):
        if runs and _says(runs[-1][-1]) == _says(decision):
            runs[-1].append(decision)
        elif len(runs) == ROWS_MAX:
            break
        else:
            runs.append([decision])
    return [_row(run[-1], len(run), history) for run in runs]


def newest_decision_view(session: EngineSession) -> dict[str, Json] | None:
    """What every length was expected to bring, and what won; None before the first decision."""
    if not session.decisions:
        return None
    decision = session.decisions[-1]
    choice = decision.choice
    best = max((p.goodput_tokens_per_s for p in choice.predictions), default=0.0)
    return {
        "decision_id": decision.decision_id,
        "num_steps": choice.num_steps,
        "batch_size": decision.query.batch_size,
        "context_tokens": decision.query.context_tokens,
        "reason": choice.reason,
        "why": _why(decision),
        **_margin(decision),
        "candidates": [
            {
                "num_steps": p.num_steps,
                "tokens": number(p.expected_tokens),
                "tokens_standard_error": number(p.expected_tokens * p.tokens_standard_error_ratio),
                "step_ms": number(p.expected_step_s * 1e3),
                "step_standard_error_ms": number(p.expected_step_s * p.step_standard_error_ratio * 1e3),
                "goodput_tokens_per_s": number(p.goodput_tokens_per_s),
                "goodput_standard_error_tokens_per_s": number(p.goodput_standard_error_tokens_per_s),
                "regret_ratio": number(regret_ratio(p.goodput_tokens_per_s, best)),
            }
            for p in choice.predictions
        ],
    }


def _says(decision: Decision) -> tuple[int, str, str]:
    return decision.choice.num_steps, decision.choice.reason, decision.policy


def _row(decision: Decision, count: int, history: EngineHistory) -> dict[str, Json]:
    return {
        "decision_id": decision.decision_id,
        "decisions": count,
        "reported_s": history.reported_s(decision.query.step_index),
        "step_index": decision.query.step_index,
        "batch_size": decision.query.batch_size,
        "num_steps": decision.choice.num_steps,
        "reason": decision.choice.reason,
        "why": _why(decision),
        **_margin(decision),
    }


def _margin(decision: Decision) -> dict[str, Json]:
    margin = margin_of(decision.choice)
    if margin is None:
        return {"rival_num_steps": None, "gain_ratio": None, "gain_standard_error_ratio": None}
    return {
        "rival_num_steps": margin.runner_up_num_steps,
        "gain_ratio": number(margin.gain_ratio),
        "gain_standard_error_ratio": number(margin.gain_standard_error_ratio),
    }


def _why(decision: Decision) -> str:
    margin = margin_of(decision.choice)
    return reason_sentence(
        decision.choice.reason,
        policy=decision.policy,
        num_steps=decision.choice.num_steps,
        rival_num_steps=margin.runner_up_num_steps if margin is not None else None,
    )
