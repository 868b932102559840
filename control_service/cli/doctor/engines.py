"""The engines under control, watched for a moment: link, fallbacks, telemetry, clock."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import Final, NamedTuple

from control_service.cli.admin_client import AdminClient
from control_service.cli.doctor.finding import Findings, ok, problem, warning
from control_service.cli.doctor.subject import Subject
from control_service.cli.errors import CliError
from control_service.cli.render import counts, mode_text
from turbospec.v1 import admin_pb2, control_pb2, telemetry

WATCH_S: Final = 2.0
STEPS_MAX: Final = 10_000
FALLBACKS_WARN_RATIO: Final = 0.01
FALLBACKS_PROBLEM_RATIO: Final = 0.5
# Spans come in some 100 ms after their step.
CLOCK_OFF_MAX_S: Final = 5.0
_TOO_LATE: Final = (
    "the service answers too late: see `turbospec status`, service's answer; is its machine busy?"
)
_FALLBACK_FIXES: Final = {
    "disconnected": "the engine's agent has no stream to the service: look into SGLang's log for 'turbospec'",
    "deadline": _TOO_LATE,
    "overdue": _TOO_LATE,
    "breaker": _TOO_LATE,
    "error": "our code failed there and control is off: its log has the trace; restart it, and report it",
}


class Watched(NamedTuple):
    """One engine: before and after the watch, for how many steps a length was asked meanwhile (an idle engine
    asks for the same one again), its steps reported, and when the watch ended (Unix time)."""

    before: admin_pb2.EngineStatus
    after: admin_pb2.EngineStatus
    asked_steps: int
    steps: list[admin_pb2.ObservedStep]
    ended_s: float


def check(subject: Subject) -> Findings:
    """Every engine that the service knows. Nothing where there is no service: that is said elsewhere."""
    if subject.control_address is None:
        return
    try:
        watched = _watch(subject.control_address)
    except CliError as error:
        if subject.service_expected:
            yield warning("engines", f"not checked: {error}", "see service")
        return
    if not watched:
        yield warning(
            "engines",
            "none has connected to this service",
            "start SGLang with TURBOSPEC_CONTROL_ADDRESS set to it, or: turbospec up",
        )
    for engine in watched:
        yield from _engine(engine)


def _watch(address: str) -> list[Watched]:
    """Two looks at all engines, and the steps between them."""
    steps: dict[str, list[admin_pb2.ObservedStep]] = {}
    with AdminClient(address) as service:
        before = {status.profile.engine_id: status for status in service.list_engines().engines}
        if not before:
            return []
        asked = {name: _newest_asked(service, name) for name in before}
        seen = 0
        for message in service.watch_steps("", WATCH_S):
            for step in message.steps:
                steps.setdefault(step.engine_id, []).append(step)
            seen += len(message.steps)
            if seen >= STEPS_MAX:
                break
        ended_s = time.time()
        after = {status.profile.engine_id: status for status in service.list_engines().engines}
        common = [name for name in after if name in before]
        asked = {name: _newest_asked(service, name) - asked[name] for name in common}
    return [Watched(before[name], after[name], asked[name], steps.get(name, []), ended_s) for name in common]


def _newest_asked(service: AdminClient, engine_id: str) -> int:
    """The step that the newest decision was for; 0 if there is none."""
    try:
        return service.explain(engine_id, 0).step_index
    except CliError:
        return 0


def _engine(watched: Watched) -> Findings:
    status = watched.after
    name = status.profile.engine_id
    mode = mode_text(status.mode, status.canary_percent)
    if not status.connected:
        yield problem(
            f"{name} link",
            "not connected; if it runs, its steps have length 0",
            "is it running? SGLang's log says what the plugin did, look for 'turbospec'",
        )
        return
    yield ok(f"{name} link", f"connected, mode {mode}")
    if status.mode != control_pb2.MODE_ENFORCE:
        fix = f"turbospec mode {name} enforce, once you trust it"
        yield warning(f"{name} mode", f"{mode}: it does not run all that is decided", fix)
    yield from _telemetry(watched)
    yield from _fallbacks(watched)
    yield from _clock(watched)


def _telemetry(watched: Watched) -> Findings:
    status, steps = watched.after, watched.steps
    check = f"{status.profile.engine_id} telemetry"
    if steps:
        yield ok(check, f"{len(steps)} steps reported in {WATCH_S:g} s")
    elif watched.asked_steps > 1:
        yield problem(
            check,
            f"{watched.asked_steps} lengths were asked for in {WATCH_S:g} s, but no step was reported",
            "is TURBOSPEC_OTLP_ADDRESS right, and does the collector there pass spans on to the service?",
        )
    else:
        yield ok(check, f"idle: no step in {WATCH_S:g} s")
    if status.drops_by_cause:
        lost = counts(status.drops_by_cause)
        fix = "engine: raise TURBOSPEC_RING_SIZE; other causes: engine and service are of different versions"
        yield warning(check, f"dropped so far: {lost}", fix)


def _fallbacks(watched: Watched) -> Findings:
    status, steps = watched.after, watched.steps
    check = f"{status.profile.engine_id} fallbacks"
    if any(step.source == telemetry.SOURCE_KILL_SWITCH for step in steps):
        yield warning(check, "the kill switch is engaged: no speculation", "remove the engine's kill file")
    recent = Counter(step.fallback_reason for step in steps if step.source == telemetry.SOURCE_FALLBACK)
    total = sum(status.fallbacks_by_reason.values())
    if recent and sum(recent.values()) > FALLBACKS_PROBLEM_RATIO * len(steps):
        yield problem(check, f"now, {counts(recent)} of {len(steps)} steps", _fallback_fix(recent))
    elif recent and sum(recent.values()) > FALLBACKS_WARN_RATIO * len(steps):
        yield warning(check, f"now, {counts(recent)} of {len(steps)} steps", _fallback_fix(recent))
    elif total > FALLBACKS_WARN_RATIO * status.steps_total:
        reasons = Counter(dict(status.fallbacks_by_reason))
        message = f"so far, {counts(reasons)} of {status.steps_total} steps; none or few now"
        yield warning(check, message, _fallback_fix(reasons))
    else:
        yield ok(check, f"{total} of {status.steps_total} steps")


def _fallback_fix(reasons: Counter[str]) -> str:
    ((reason, _),) = reasons.most_common(1)
    return _FALLBACK_FIXES.get(reason, "SGLang's log says what the plugin did, look for 'turbospec'")


def _clock(watched: Watched) -> Findings:
    steps = watched.steps
    if not steps:
        return
    check = f"{watched.after.profile.engine_id} clock"
    by_index = sorted(steps, key=lambda step: step.step_index)
    backwards = sum(later.start_s < earlier.start_s for earlier, later in pairwise(by_index))
    newest = by_index[-1]
    off_s = newest.start_s + newest.duration_s - watched.ended_s
    when = f"{abs(off_s):.1f} s {'from now' if off_s > 0 else 'ago'}"
    if backwards:
        message = f"{backwards} of {len(steps)} steps started before the step before them"
        yield warning(check, message, "is its clock being set?")
    elif abs(off_s) > CLOCK_OFF_MAX_S:
        yield warning(
            check,
            f"the newest step ended {when}, by the engine's clock",
            "synchronize the clocks (chrony, NTP); control does not depend on them, dashboards do",
        )
    else:
        yield ok(check, f"steps in order, and within {CLOCK_OFF_MAX_S:g} s of this machine's clock")
