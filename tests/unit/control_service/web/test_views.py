"""What the page is told: plain JSON, bounded, and true to the session it is about."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from control_service.core.types import Mode
from control_service.server.web.decisions_view import ROWS_MAX
from control_service.server.web.history import SECONDS_KEPT
from control_service.server.web.static_files import static_files
from control_service.server.web.values import number
from control_service.server.web.views import ENGINES_LISTED_MAX, UnknownEngineError
from tests.unit.control_service.web.served import START_S, Served

MARKUP = "<script>alert(1)</script>\" onload='x'"
# What a poll may cost once a page has the past.
POLL_BYTES_MAX = 16_000
FIRST_BYTES_MAX = 160_000


def as_json(view: object) -> Any:
    """As a browser gets it; fails on NaN."""
    return json.loads(json.dumps(view, allow_nan=False))


def test_a_served_engine_is_told_in_full() -> None:
    served = Served()
    entry = served.attach()
    served.serve(entry, 500)
    session = entry.session
    view = as_json(served.views.engine("engine", 0))
    assert view["profile"]["engine_id"] == "engine"
    assert view["connected"] is True
    assert view["mode"] == "enforce"
    assert view["now"]["num_steps"] == session.newest_step.num_steps  # type: ignore[union-attr]
    assert view["now"]["gain_ratio"] == pytest.approx(4.0, rel=0.15)
    assert view["control"]["steps_by_source"] == {"lease": 500}
    assert view["totals"]["steps"] == 500

    decision = view["decision"]
    assert decision["decision_id"] == 500
    assert [c["num_steps"] for c in decision["candidates"]] == [0, 1, 2, 3, 5]
    best = max(decision["candidates"], key=lambda c: c["goodput_tokens_per_s"])
    assert best["num_steps"] == decision["num_steps"] == 5
    assert best["regret_ratio"] == 0
    assert "length 5" in decision["why"]

    positions = [(p["position"], p["after_full_accept"]) for p in view["acceptance"]]
    assert positions == [(1, False), (2, False), (3, False), (4, False), (5, False), (1, True)]
    assert view["acceptance"][0]["probability"] == pytest.approx(0.8, abs=0.1)


def test_cost_curves_tell_what_ran_from_what_is_guessed() -> None:
    served = Served()
    entry = served.attach()
    served.serve(entry, 400, batch=2)
    view = as_json(served.views.engine("engine", 0))["step_time"]
    assert view["ready"] is True
    # The batch that ran, and one bucket beyond.
    assert view["batch_sizes"] == [2, 4]
    by_length = {curve["num_steps"]: curve for curve in view["curves"]}
    assert by_length[0]["step_ms"][0] == pytest.approx(10.0, rel=0.05)
    assert by_length[5]["step_ms"][0] == pytest.approx(12.5, rel=0.05)
    for curve in view["curves"]:
        ran, guessed = curve["samples"]
        assert ran > 0
        assert guessed == 0
        assert curve["standard_error_ms"][1] > curve["standard_error_ms"][0] > 0


def test_the_past_is_sent_once() -> None:
    served = Served()
    entry = served.attach()
    served.serve(entry, 500, steps_per_s=50)
    whole = as_json(served.views.engine("engine", 0))["history"]
    assert len(whole["time_s"]) == 10
    assert {len(column) for column in whole.values()} == {10}
    newest = as_json(served.views.engine("engine", whole["time_s"][-1]))["history"]
    assert newest == {name: column[-1:] for name, column in whole.items()}


def test_nothing_known_is_null_and_no_number() -> None:
    served = Served()
    served.attach()
    view = as_json(served.views.engine("engine", 0))
    assert view["now"]["num_steps"] is None
    assert view["now"]["goodput_tokens_per_s"] is None
    assert view["decision"] is None
    assert view["decisions"] == []
    assert view["step_time"]["ready"] is False
    assert view["step_time"]["not_ready_reason"]
    assert number(float("nan")) is None
    assert number(float("inf")) is None
    assert number(1234.5678) == 1234.6


async def test_answers_stay_small_however_long_an_engine_ran_and_however_many_there_are() -> None:
    served = Served(engines_max=ENGINES_LISTED_MAX + 50)
    busy = served.attach("busy", candidate_num_steps=(0, 1, 2, 3, 5, 7), launch_num_steps=7)
    served.serve(busy, 4 * SECONDS_KEPT, steps_per_s=2)
    for index in range(ENGINES_LISTED_MAX + 49):
        served.attach(f"engine {index:04}" + "x" * 100)
    listed = as_json(await served.views.engines())
    assert listed["engines_total"] == ENGINES_LISTED_MAX + 50
    assert len(listed["engines"]) == ENGINES_LISTED_MAX
    first = served.views.engine("busy", 0)
    assert len(first["history"]["time_s"]) == SECONDS_KEPT  # type: ignore[index, call-overload, arg-type]
    assert len(json.dumps(first)) < FIRST_BYTES_MAX
    assert len(json.dumps(served.views.engine("busy", served.now_s - 1))) < POLL_BYTES_MAX


def test_like_decisions_are_one_row_newest_first() -> None:
    served = Served()
    entry = served.attach()
    served.serve(entry, 300)
    rows = as_json(served.views.engine("engine", 0))["decisions"]
    assert 1 < len(rows) <= ROWS_MAX
    ids = [row["decision_id"] for row in rows]
    assert ids == sorted(ids, reverse=True)
    said = [(row["num_steps"], row["reason"]) for row in rows]
    assert all(one != other for one, other in pairwise(said))
    # Rows without a gap: each begins where the one before it ended.
    for newer, older in pairwise(rows):
        assert older["decision_id"] + older["decisions"] == newer["decision_id"]
    assert rows[0]["reported_s"] >= START_S


async def test_connected_engines_come_first_and_an_odd_name_is_only_text() -> None:
    served = Served()
    served.attach("a")
    served.attach(MARKUP)
    served.registry.detach("a", 1)
    listed = as_json(await served.views.engines())["engines"]
    assert [(engine["engine_id"], engine["connected"]) for engine in listed] == [(MARKUP, True), ("a", False)]
    assert as_json(served.views.engine(MARKUP, 0))["profile"]["engine_id"] == MARKUP
    with pytest.raises(UnknownEngineError, match="engine_id: 'nobody' is not known"):
        served.views.engine("nobody", 0)


def test_an_engine_that_is_off_has_a_view_without_decisions() -> None:
    served = Served(mode=Mode.OFF)
    entry = served.attach()
    served.serve(entry, 10)
    view = as_json(served.views.engine("engine", 0))
    assert view["mode"] == "off"
    assert view["decision"] is None
    assert view["verdict"]["headline"] == "Control is off"


def test_the_page_is_complete_without_a_network_and_has_no_inline_script_or_style() -> None:
    """Every file that the page names is in the package, and the policy that it is sent with holds."""
    files = static_files()
    page = files["/"].body.decode()
    named = [part.split('"')[0] for attribute in ('src="', 'href="') for part in page.split(attribute)[1:]]
    local = [name for name in named if not name.startswith("#") and name != "metrics"]
    assert local
    assert {f"/{name}" for name in local} <= set(files)
    assert not [name for name in named if "://" in name]
    assert "style=" not in page
    assert "<style" not in page
    assert page.count("<script") == page.count("<script src=")
    assert "/vendor/uplot/LICENSE" not in files
