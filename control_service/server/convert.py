"""Between protobuf messages and the core's plain values."""

from __future__ import annotations

from control_service.core.counters import QuantileSummary
from control_service.core.margin import margin_of, regret_ratio
from control_service.core.registry import EngineEntry
from control_service.core.types import Decision, Lease, Mode, StepQuery
from control_service.server.wire import profile_to_proto
from turbospec.v1 import admin_pb2, control_pb2


def mode_to_proto(mode: Mode) -> str:
    """The name of the wire's value; messages take it in place of the number."""
    return f"MODE_{mode.name}"


def query_from_proto(message: control_pb2.StepRequest) -> StepQuery:
    """Field by field; nothing is checked here."""
    return StepQuery(
        step_index=message.step_index,
        batch_size=message.batch_size,
        context_tokens=message.context_tokens,
        waiting_requests=message.waiting_requests,
    )


def lease_to_proto(lease: Lease) -> control_pb2.DecideResponse:
    """Field by field."""
    return control_pb2.DecideResponse(
        epoch=lease.epoch,
        step_index=lease.step_index,
        decision_id=lease.decision_id,
        model_generation=lease.model_generation,
        valid_for_steps=lease.valid_for_steps,
        valid_for_ms=lease.valid_for_ms,
        mode=mode_to_proto(lease.mode),
        canary_percent=lease.canary_percent,
        tiers=[control_pb2.Tier(max_batch_size=size, num_steps=length) for size, length in lease.tiers],
    )


def status_to_proto(entry: EngineEntry, policy_hold_left_ms: int) -> admin_pb2.EngineStatus:
    """One engine as an operator sees it."""
    session, counters = entry.session, entry.session.counters
    rates = counters.window.rates()
    newest = session.newest_step
    choice = session.decisions[-1].choice if session.decisions else None
    predicted = choice.prediction_for(choice.num_steps) if choice is not None else None
    without = choice.prediction_for(0) if choice is not None else None
    nan = float("nan")
    return admin_pb2.EngineStatus(
        profile=profile_to_proto(session.profile),
        profile_hash=session.profile_hash,
        connected=entry.connected,
        mode=mode_to_proto(session.mode),
        canary_percent=session.canary_percent,
        policy=session.policy.name,
        policy_parameters=session.policy_parameters,
        policy_hold_left_ms=policy_hold_left_ms,
        model_generation=session.models.generation,
        step_index=newest.step_index if newest else 0,
        batch_size=newest.batch_size if newest else 0,
        context_tokens=newest.context_tokens if newest else 0,
        num_steps=newest.num_steps if newest else 0,
        decisions_total=counters.decisions_total,
        steps_total=counters.steps_total,
        committed_tokens_total=counters.committed_tokens_total,
        draft_tokens_total=counters.draft_tokens_total,
        accepted_tokens_total=counters.accepted_tokens_total,
        switches_total=counters.switches_total,
        steps_by_source=counters.steps_by_source,
        fallbacks_by_reason=counters.fallbacks_by_reason,
        steps_by_num_steps=counters.steps_by_num_steps,
        drops_by_cause={cause: count for cause, count in counters.drops_by_cause.items() if count},
        acceptance_rate=rates.acceptance_rate,
        mean_accepted_length_tokens=rates.mean_accepted_length_tokens,
        goodput_tokens_per_s=rates.goodput_tokens_per_s,
        predicted_goodput_tokens_per_s=predicted.goodput_tokens_per_s if predicted else nan,
        predicted_goodput_without_speculation_tokens_per_s=without.goodput_tokens_per_s if without else nan,
        step_control_us=_quantiles(counters.control_us.summary()),
        decision_wait_us=_quantiles(counters.decision_wait_us.summary()),
        answer_us=_quantiles(counters.answer_us.summary()),
    )


def models_to_proto(entry: EngineEntry) -> admin_pb2.GetEngineModelsResponse:
    """Fitted models of one engine."""
    session, models = entry.session, entry.session.models
    fit = models.step_time.fit
    return admin_pb2.GetEngineModelsResponse(
        engine_id=session.profile.engine_id,
        model_generation=models.generation,
        acceptance=[admin_pb2.AcceptancePosition(**p._asdict()) for p in models.acceptance.positions()],
        step_time=[admin_pb2.StepTimeCell(**cell._asdict()) for cell in models.step_time.cells()],
        shared_coefficients_s=fit.coefficients if fit is not None else {},
        step_time_ready=fit is not None,
        not_ready_reason=models.step_time.not_ready_reason,
    )


def explanation_to_proto(engine_id: str, decision: Decision) -> admin_pb2.ExplainDecisionResponse:
    """One decision: its inputs, every candidate's forecast, what won and why."""
    choice, query = decision.choice, decision.query
    margin = margin_of(choice)
    best = max((p.goodput_tokens_per_s for p in choice.predictions), default=0.0)
    return admin_pb2.ExplainDecisionResponse(
        engine_id=engine_id,
        decision_id=decision.decision_id,
        step_index=query.step_index,
        batch_size=query.batch_size,
        context_tokens=query.context_tokens,
        policy=decision.policy,
        model_generation=decision.model_generation,
        num_steps=choice.num_steps,
        reason=choice.reason,
        candidates=[
            admin_pb2.CandidatePrediction(
                **prediction._asdict(), regret_ratio=regret_ratio(prediction.goodput_tokens_per_s, best)
            )
            for prediction in choice.predictions
        ],
        waiting_requests=query.waiting_requests,
        margin=admin_pb2.Margin(**margin._asdict()) if margin is not None else None,
    )


def _quantiles(summary: QuantileSummary) -> admin_pb2.Quantiles:
    return admin_pb2.Quantiles(count=summary.count, p50=summary.p50, p99=summary.p99, max=summary.max)
