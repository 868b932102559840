"""What an operator wants to know first: is speculation paying, and is it under control?"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from control_service.core.reasons import reason_sentence
from control_service.core.registry import EngineEntry
from control_service.core.session import EngineSession
from control_service.core.types import Mode
from control_service.server.web.history import EngineHistory, Second
from turbospec.v1 import telemetry

PAYS_WINDOW_S = 30
# No step for so long: the engine has nothing to do.
IDLE_S = 10
# Reports lag what is asked by a few steps, never by so many.
UNREPORTED_STEPS = 64
# A lease missed now and then costs next to nothing, and those missed while connecting are past.
LEASES_WINDOW_S = 15
FALLBACK_SHARE = 0.02
FALLBACK_STEPS_MIN = 5
# Below this share of its steps an engine does not speculate, it looks whether that would pay.
SPECULATING_SHARE = 0.1
ERROR_RATIO_MIN = 0.01
LEARNING_REASONS = frozenset({"no_telemetry", "models_not_ready", "cold_start"})


class Level(StrEnum):
    """How much of an operator's attention it wants."""

    GOOD = "good"
    NEUTRAL = "neutral"
    WARN = "warn"
    BAD = "bad"


class Verdict(NamedTuple):
    """A few words, a sentence that explains them, and the one number that counts, if there is one."""

    level: Level
    headline: str
    detail: str
    figure: str = ""


class Gain(NamedTuple):
    """Measured goodput over that forecast without speculation, with the forecast's standard error."""

    ratio: float
    standard_error: float


def gain_of(session: EngineSession, recent: Second) -> Gain | None:
    """None while nothing was forecast."""
    ratio = recent.measured.per_s / recent.without.per_s
    newest = session.newest_step
    forecaster = session.models.forecaster
    if not math.isfinite(ratio) or newest is None or forecaster is None:
        return None
    without = forecaster.batch(newest.batch_size, newest.context_tokens).predictions()[0]
    return Gain(ratio, ratio * max(without.step_standard_error_ratio, ERROR_RATIO_MIN))


def verdict_of(entry: EngineEntry, history: EngineHistory, now_s: float) -> Verdict:
    """The first of these that holds: who is in control, what control is told, and what it brings."""
    session = entry.session
    return (
        _out_of_control(entry, history, now_s)
        or _by_operator(session)
        or _by_leases(history.total(now_s - LEASES_WINDOW_S))
        or _by_decision(session)
        or _by_gain(session, history.total(now_s - PAYS_WINDOW_S))
    )


def _out_of_control(entry: EngineEntry, history: EngineHistory, now_s: float) -> Verdict | None:
    if not entry.connected:
        text = "The engine has no stream to this service. Without a lease it does not speculate."
        return Verdict(Level.BAD, "Not under control", text)
    silent_s = now_s - history.newest_s if history.newest_s is not None else math.inf
    if silent_s <= IDLE_S:
        return None
    if _unreported_steps(entry.session) > UNREPORTED_STEPS:
        text = "The engine asks for lengths, but its steps are not reported: nothing can be learned."
        return Verdict(Level.WARN, "No telemetry", text)
    if history.newest_s is None:
        return Verdict(Level.NEUTRAL, "Connected, no step yet", "The engine has reported no decode step.")
    return Verdict(Level.NEUTRAL, "Idle", f"No decode step was reported for {_duration(silent_s)}.")


def _unreported_steps(session: EngineSession) -> int:
    asked = session.decisions[-1].query.step_index if session.decisions else 0
    return asked - (session.newest_step.step_index if session.newest_step is not None else 0)


def _by_operator(session: EngineSession) -> Verdict | None:
    launch = session.profile.launch_num_steps
    if session.newest_step is not None and session.newest_step.source == telemetry.SOURCE_KILL_SWITCH:
        text = "The engine's own kill switch is on: it runs length 0 whatever this service says."
        return Verdict(Level.WARN, "Switched off by hand", text)
    if session.mode is Mode.OFF:
        return Verdict(Level.NEUTRAL, "Control is off", f"The engine runs its launch length, {launch}.")
    if session.mode is Mode.SHADOW:
        text = f"The engine runs its launch length, {launch}; decisions are recorded, not applied."
        return Verdict(Level.NEUTRAL, "Shadow: looking on", f"{text}{_shadow_gain(session)}")
    return None


def _shadow_gain(session: EngineSession) -> str:
    choice = session.decisions[-1].choice if session.decisions else None
    chosen = choice.prediction_for(choice.num_steps) if choice is not None else None
    launch = choice.prediction_for(session.profile.launch_num_steps) if choice is not None else None
    if chosen is None or launch is None:
        return ""
    gain = chosen.goodput_tokens_per_s / launch.goodput_tokens_per_s - 1.0
    return f" Length {chosen.num_steps} would bring {gain:+.1%}."


def _by_leases(recent: Second) -> Verdict | None:
    share = recent.fallback_steps / max(recent.steps, 1)
    if share <= FALLBACK_SHARE or recent.fallback_steps < FALLBACK_STEPS_MIN:
        return None
    text = (
        f"{share:.0%} of the steps of the last {LEASES_WINDOW_S} s had no valid lease in time"
        " and ran without speculation."
    )
    return Verdict(Level.WARN, "Losing leases", text)


def _by_decision(session: EngineSession) -> Verdict | None:
    decision = session.decisions[-1] if session.decisions else None
    if decision is None:
        return Verdict(Level.NEUTRAL, "Learning", "No decision has been made yet.")
    choice = decision.choice
    why = _sentence(
        reason_sentence(
            choice.reason, policy=decision.policy, num_steps=choice.num_steps, rival_num_steps=None
        )
    )
    if choice.reason in LEARNING_REASONS:
        return Verdict(Level.NEUTRAL, "Learning", why)
    if choice.reason == "guard":
        return Verdict(Level.WARN, "Speculation was losing", why)
    return None


def _by_gain(session: EngineSession, recent: Second) -> Verdict:
    gain = gain_of(session, recent)
    if gain is None:
        why = session.models.step_time.not_ready_reason or "nothing was forecast yet"
        return Verdict(Level.NEUTRAL, "Learning", f"Not known yet whether speculation pays: {why}.")
    over = f"{gain.ratio:.2f}×"
    compared = f"{over} ± {gain.standard_error:.2f} the goodput expected without speculation, over the last"
    detail = f"{compared} {PAYS_WINDOW_S} s."
    if 1.0 - recent.steps_by_num_steps[0] / recent.steps < SPECULATING_SHARE:
        text = "The engine runs length 0, looking now and then whether drafts would pay."
        return Verdict(Level.NEUTRAL, "Not speculating", text)
    if gain.ratio - 2.0 * gain.standard_error > 1.0:
        return Verdict(Level.GOOD, "Speculation pays", detail, over)
    if gain.ratio + 2.0 * gain.standard_error < 1.0:
        return Verdict(Level.WARN, "Speculation costs", detail, over)
    return Verdict(Level.NEUTRAL, "Speculation breaks even", detail, over)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _duration(seconds: float) -> str:
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"
