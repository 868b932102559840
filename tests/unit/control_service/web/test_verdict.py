"""The first line of the page says what an operator must know, and does not cry wolf."""

from __future__ import annotations

import re

import pytest

from control_service.core.policies.static import StaticPolicy
from control_service.core.registry import EngineEntry
from control_service.core.types import Mode
from control_service.server.web.verdict import IDLE_S, LEASES_WINDOW_S, Level, Verdict, verdict_of
from tests.unit.control_service.factories import observation, query
from tests.unit.control_service.web.served import Served


def judged(served: Served, entry: EngineEntry) -> Verdict:
    return verdict_of(entry, served.history(), served.now_s)


@pytest.fixture
def served() -> Served:
    return Served()


def test_drafts_that_are_good_and_cheap_pay(served: Served) -> None:
    entry = served.attach()
    served.serve(entry, 500)
    verdict = judged(served, entry)
    assert (verdict.level, verdict.headline) == (Level.GOOD, "Speculation pays")
    assert 3.5 < float(verdict.figure.removesuffix("×")) < 4.5
    assert verdict.figure in verdict.detail


def test_a_length_that_an_operator_holds_against_the_odds_costs(served: Served) -> None:
    entry = served.attach()
    served.serve(entry, 500, acceptance=0.1, draft_s=0.004)
    entry.session.set_policy(StaticPolicy(5, entry.session.profile.max_running_requests))
    served.serve(entry, 2_000, acceptance=0.0, draft_s=0.004)
    verdict = judged(served, entry)
    assert (verdict.level, verdict.headline) == (Level.WARN, "Speculation costs")
    assert float(verdict.figure.removesuffix("×")) < 0.5


def test_drafts_that_are_never_accepted_are_not_tried_and_that_is_nothing_to_worry_about(
    served: Served,
) -> None:
    entry = served.attach()
    served.serve(entry, 3_000, acceptance=0.0, draft_s=0.004)
    verdict = judged(served, entry)
    assert (verdict.level, verdict.headline) == (Level.NEUTRAL, "Not speculating")
    assert re.search(r"0\.9\d|1\.0\d", verdict.detail) or "length 0" in verdict.detail


def test_an_engine_tells_what_it_does_from_its_first_step_on(served: Served) -> None:
    entry = served.attach()
    assert judged(served, entry).headline == "Connected, no step yet"
    served.serve(entry, 3)
    assert judged(served, entry).headline == "Learning"
    served.serve(entry, 500)
    served.now_s += IDLE_S + 120
    idle = judged(served, entry)
    assert (idle.level, idle.headline) == (Level.NEUTRAL, "Idle")
    assert "2 min" in idle.detail
    served.registry.detach("engine", 1)
    gone = judged(served, entry)
    assert (gone.level, gone.headline) == (Level.BAD, "Not under control")


def test_steps_that_are_asked_for_but_never_reported_are_missed(served: Served) -> None:
    entry = served.attach()
    served.serve(entry, 100)
    served.now_s += IDLE_S + 1
    for index in range(101, 301):
        entry.session.decide(query(index, 2, 200))
    verdict = judged(served, entry)
    assert (verdict.level, verdict.headline) == (Level.WARN, "No telemetry")


def test_leases_that_are_lost_in_number_are_said_and_a_single_one_is_not(served: Served) -> None:
    entry = served.attach()
    served.serve(entry, 500)
    served.serve(entry, 1, source="fallback")
    assert judged(served, entry).level is Level.GOOD
    served.serve(entry, 60, source="fallback")
    verdict = judged(served, entry)
    assert (verdict.level, verdict.headline) == (Level.WARN, "Losing leases")
    assert "11%" in verdict.detail
    # Once leases come again, what was lost is soon past.
    served.serve(entry, 50 * LEASES_WINDOW_S)
    assert judged(served, entry).level is Level.GOOD


@pytest.mark.parametrize(
    ("mode", "headline"), [(Mode.OFF, "Control is off"), (Mode.SHADOW, "Shadow: looking on")]
)
def test_the_mode_is_said_where_it_keeps_control_from_acting(
    mode: Mode, headline: str, served: Served
) -> None:
    entry = served.attach()
    served.serve(entry, 500)
    entry.session.set_mode(mode, 0)
    served.serve(entry, 5)
    verdict = judged(served, entry)
    assert (verdict.level, verdict.headline) == (Level.NEUTRAL, headline)
    assert "launch length, 5" in verdict.detail
    assert ("would bring" in verdict.detail) == (mode is Mode.SHADOW)


def test_a_kill_switch_is_said(served: Served) -> None:
    entry = served.attach()
    served.serve(entry, 500)
    step = observation(501, 0, (0, 0), previous_num_steps=5, source="kill_switch")
    entry.session.observe(step)
    served.step_history.observe(entry.session, step)
    assert judged(served, entry).headline == "Switched off by hand"


def test_the_guard_is_said(served: Served) -> None:
    entry = served.attach()
    served.serve(entry, 200)
    # Nothing is accepted any more and steps take long, but no refit tells the policy.
    for index in range(201, 1_200):
        lease = entry.session.decide(query(index, 2, 200))
        step = observation(index, lease.tiers[0].num_steps, (0, 0), 0.0125)
        entry.session.observe(step)
        served.step_history.observe(entry.session, step)
        if entry.session.decisions[-1].choice.reason == "guard":
            break
    verdict = judged(served, entry)
    assert (verdict.level, verdict.headline) == (Level.WARN, "Speculation was losing")
