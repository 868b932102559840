"""What the page is told of the engines, as JSON. Called on the event loop, the only writer of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from control_service.core.counters import QuantileSummary
from control_service.core.registry import EngineEntry, EngineRegistry
from control_service.core.session import EngineSession
from control_service.server.web.decisions_view import decisions_view, newest_decision_view
from control_service.server.web.history import Second, StepHistory
from control_service.server.web.models_view import acceptance_view, step_time_view
from control_service.server.web.values import Json, counts, number
from control_service.server.web.verdict import PAYS_WINDOW_S, Verdict, gain_of, verdict_of

# An answer must stay small, however many engines there are.
ENGINES_LISTED_MAX = 200
CONTROL_WINDOW_S = 60


class UnknownEngineError(LookupError):
    """No engine of that name."""


class PageViews:
    """Everything that the page can ask for."""

    def __init__(
        self, registry: EngineRegistry, history: StepHistory, *, version: str, clock: Callable[[], float]
    ) -> None:
        """clock: Unix seconds, as the history's."""
        self._registry = registry
        self._history = history
        self._version = version
        self._clock = clock
        self._started_s = clock()

    async def engines(self) -> dict[str, Json]:
        """Every engine in brief, connected ones first. Gives the loop back between two of them."""
        now_s = self._clock()
        entries = sorted(self._registry, key=lambda entry: (not entry.connected, _engine_id(entry)))
        briefs: list[Json] = []
        for entry in entries[:ENGINES_LISTED_MAX]:
            briefs.append(self._brief(entry, now_s))
            await asyncio.sleep(0)
        return {**self._service(now_s), "engines_total": len(entries), "engines": briefs}

    def engine(self, engine_id: str, since_s: float) -> dict[str, Json]:
        """One engine in full, its past from `since_s` (Unix) on. Raises UnknownEngineError."""
        entry = self._registry.get(engine_id)
        if entry is None:
            raise UnknownEngineError(f"engine_id: {engine_id!r} is not known")
        now_s = self._clock()
        session, history = entry.session, self._history.of(engine_id)
        return {
            **self._service(now_s),
            "profile": _profile(session),
            "connected": entry.connected,
            "mode": session.mode.name.lower(),
            "canary_percent": session.canary_percent,
            "policy": session.policy.name,
            "policy_parameters": dict(session.policy_parameters),
            "verdict": _verdict(verdict_of(entry, history, now_s)),
            "now": _now(session, history.total(now_s - PAYS_WINDOW_S)),
            "control": _control(session, history.total(now_s - CONTROL_WINDOW_S)),
            "history": _columns(history.since(since_s)),
            "decision": newest_decision_view(session),
            "decisions": decisions_view(session, history),
            "acceptance": acceptance_view(session.models),
            "step_time": step_time_view(session),
            "totals": _totals(session),
        }

    def _service(self, now_s: float) -> dict[str, Json]:
        return {"version": self._version, "started_s": self._started_s, "now_s": now_s}

    def _brief(self, entry: EngineEntry, now_s: float) -> dict[str, Json]:
        session, history = entry.session, self._history.of(_engine_id(entry))
        newest = session.newest_step
        return {
            "engine_id": _engine_id(entry),
            "connected": entry.connected,
            "mode": session.mode.name.lower(),
            "num_steps": newest.num_steps if newest is not None else None,
            "verdict": _verdict(verdict_of(entry, history, now_s)),
        }


def _engine_id(entry: EngineEntry) -> str:
    return entry.session.profile.engine_id


def _profile(session: EngineSession) -> dict[str, Json]:
    profile = session.profile
    return {
        "engine_id": profile.engine_id,
        "epoch": str(profile.epoch),
        "sglang_version": profile.sglang_version,
        "target_model": profile.target_model,
        "draft_model": profile.draft_model,
        "dtype": profile.dtype,
        "accelerator": profile.accelerator,
        "algorithm": profile.algorithm,
        "candidate_num_steps": list(profile.candidate_num_steps),
        "launch_num_steps": profile.launch_num_steps,
        "max_running_requests": profile.max_running_requests,
    }


def _verdict(verdict: Verdict) -> dict[str, Json]:
    return {**verdict._asdict(), "level": str(verdict.level)}


def _now(session: EngineSession, recent: Second) -> dict[str, Json]:
    """The newest step, and goodput over the last `PAYS_WINDOW_S`."""
    newest, gain = session.newest_step, gain_of(session, recent)
    rates = session.counters.window.rates()
    return {
        "num_steps": newest.num_steps if newest is not None else None,
        "batch_size": newest.batch_size if newest is not None else None,
        "context_tokens": newest.context_tokens if newest is not None else None,
        "waiting_requests": newest.waiting_requests if newest is not None else None,
        "goodput_tokens_per_s": number(recent.measured.per_s),
        "without_tokens_per_s": number(recent.without.per_s),
        "gain_ratio": number(gain.ratio) if gain is not None else None,
        "gain_standard_error": number(gain.standard_error) if gain is not None else None,
        "acceptance_rate": number(rates.acceptance_rate),
        "mean_accepted_length_tokens": number(rates.mean_accepted_length_tokens),
    }


def _control(session: EngineSession, recent: Second) -> dict[str, Json]:
    """Where the lengths of the last `CONTROL_WINDOW_S` came from, and what control costs."""
    counters = session.counters
    return {
        "window_s": CONTROL_WINDOW_S,
        "steps": recent.steps,
        "steps_by_source": counts(recent.steps_by_source),
        "control_us": _quantiles(counters.control_us.summary()),
        "decision_wait_us": _quantiles(counters.decision_wait_us.summary()),
        "answer_us": _quantiles(counters.answer_us.summary()),
    }


def _quantiles(summary: QuantileSummary) -> dict[str, Json]:
    return {"p50": number(summary.p50), "p99": number(summary.p99), "max": number(summary.max)}


def _columns(seconds: list[Second]) -> dict[str, Json]:
    """A list per quantity, of the seconds in which there was a step."""
    return {
        "time_s": [second.time_s for second in seconds],
        "num_steps": [second.num_steps for second in seconds],
        "num_steps_low": [min(second.steps_by_num_steps) for second in seconds],
        "num_steps_high": [max(second.steps_by_num_steps) for second in seconds],
        "batch_size": [number(second.batch_size) for second in seconds],
        "waiting_requests": [second.waiting_requests for second in seconds],
        "steps": [second.steps for second in seconds],
        "fallback_steps": [second.fallback_steps for second in seconds],
        "goodput_tokens_per_s": [number(second.measured.per_s) for second in seconds],
        "predicted_tokens_per_s": [number(second.predicted.per_s) for second in seconds],
        "without_tokens_per_s": [number(second.without.per_s) for second in seconds],
    }


def _totals(session: EngineSession) -> dict[str, Json]:
    counters = session.counters
    return {
        "steps": counters.steps_total,
        "decisions": counters.decisions_total,
        "switches": counters.switches_total,
        "model_generation": session.models.generation,
        "committed_tokens": counters.committed_tokens_total,
        "draft_tokens": counters.draft_tokens_total,
        "accepted_tokens": counters.accepted_tokens_total,
        "steps_by_num_steps": counts(counters.steps_by_num_steps),
        "steps_by_source": counts(counters.steps_by_source),
        "fallbacks_by_reason": counts(counters.fallbacks_by_reason),
        "decisions_by_reason": counts(counters.decisions_by_reason),
        "telemetry_dropped_by_cause": counts(counters.drops_by_cause),
    }
