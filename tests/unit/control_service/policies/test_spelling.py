"""One spelling of policies for the command line and for replay."""

from __future__ import annotations

import pytest

from control_service.core.policies.make import make_policy
from control_service.core.policies.spelling import parse_policy
from control_service.core.validation import InvalidFieldError
from tests.unit.control_service.factories import profile


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("goodput", "goodput", {}),
        ("static:2", "static", {"num_steps": "2"}),
        ("static:num_steps=2", "static", {"num_steps": "2"}),
        ("schedule:table=1:5,8:3,12:0", "schedule", {"table": "1:5,8:3,12:0"}),
        (
            'ema:config={"1": {"candidate_steps": [1, 3]}, "ema_alpha": 0.1}',
            "ema",
            {"config": '{"1": {"candidate_steps": [1, 3]}, "ema_alpha": 0.1}'},
        ),
        ("turbospec:acceptance=drafted", "turbospec", {"acceptance": "drafted"}),
    ],
)
def test_what_can_be_written_can_be_made(text: str, name: str, parameters: dict[str, str]) -> None:
    assert parse_policy(text) == (name, parameters)
    assert make_policy(name, parameters, profile()).name == name


def test_parameters_are_separated_where_the_next_begins() -> None:
    assert parse_policy("schedule:table=1:5,8:3,more=x") == ("schedule", {"table": "1:5,8:3", "more": "x"})


@pytest.mark.parametrize(
    "text", ["", ":", "goodput:", "Static:2", "static", "schedule:1:5", "ema:=1", "a:b=1,b=2"]
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidFieldError, match="goodput, static:K"):
        parse_policy(text)
