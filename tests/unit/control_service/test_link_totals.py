"""What an engine says of its link: states and totals, bounded to what is known."""

from typing import Any

import pytest

from control_service.core.counters import EngineCounters
from control_service.core.validation import rejection_cause
from control_service.server.otlp import MalformedSpanError, step_of
from tests.integration.service.synthetic_engine import make_span
from tests.unit.control_service.factories import observation, profile
from turbospec.v1 import telemetry


def span(**attributes: Any) -> Any:
    return make_span(1, 3, [1, 0], 0.01, **attributes)


def test_a_span_tells_of_the_link() -> None:
    told = {"link_state": "open", "dropped_asks": 4, "lease_refusals.duplicate": 2, "lease_refusals.flood": 1}
    step = step_of(span(**told))
    assert (step.link_state, step.dropped_asks) == ("open", 4)
    assert step.lease_refusals == (("duplicate", 2), ("flood", 1))


def test_an_engine_that_does_not_tell_is_taken_too() -> None:
    step = step_of(span())
    assert (step.link_state, step.lease_refusals, step.dropped_asks) == ("", (), 0)


def test_states_and_causes_outside_the_vocabulary_are_ignored() -> None:
    step = step_of(span(**{"link_state": "on fire", "lease_refusals.phase_of_the_moon": 3}))
    assert (step.link_state, step.lease_refusals) == ("", ())


def test_what_is_no_number_is_malformed() -> None:
    with pytest.raises(MalformedSpanError, match=r"lease_refusals\.flood"):
        step_of(span(**{"lease_refusals.flood": "many"}))
    assert rejection_cause(observation(1, 3, (1, 0), dropped_asks=-1), profile()) == "counts"


def test_totals_are_the_largest_told_in_whatever_order() -> None:
    counters = EngineCounters(5)
    for duplicates, asks in ((1, 0), (5, 7), (3, 2)):
        refusals = (("duplicate", duplicates), ("wrong_epoch", 1))
        counters.count_step(observation(1, 3, (1, 0), lease_refusals=refusals, dropped_asks=asks))
    assert counters.lease_refusals_by_cause == {"duplicate": 5, "wrong_epoch": 1}
    assert counters.dropped_asks_total == 7
    assert counters.lease_refusals_by_cause.keys() <= set(telemetry.LEASE_REFUSAL_CAUSES)
