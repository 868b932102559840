"""Policies are made by name; what is wrong is refused by field, value and what is allowed."""

from __future__ import annotations

import pytest

from control_service.core.policies.make import make_policy
from control_service.core.validation import InvalidFieldError
from tests.unit.control_service.factories import profile, query
from tests.unit.control_service.policies.views import ready_forecaster, view

GOOD = (
    ("goodput", {}),
    ("static", {"num_steps": "2"}),
    ("schedule", {"table": "1:5,8:3,12:0"}),
    ("ema", {}),
    ("ema", {"config": '{"1": {"candidate_steps": [0, 5]}, "ema_alpha": 0.5}'}),
    ("turbospec", {}),
    ("turbospec", {"acceptance": "drafted"}),
)


@pytest.mark.parametrize(("name", "parameters"), GOOD)
def test_every_policy_answers_and_brings_predictions_once_the_models_are_ready(
    name: str, parameters: dict[str, str]
) -> None:
    engine = profile()
    policy = make_policy(name, parameters, engine)
    assert policy.name == name
    assert policy.choose(query(1), view()).predictions == ()
    choice = make_policy(name, parameters, engine).choose(
        query(100, batch_size=3), view(ready_forecaster(engine), observed_step_index=99)
    )
    assert [prediction.num_steps for prediction in choice.predictions] == [0, 1, 2, 3, 5]
    assert choice.num_steps in engine.candidate_num_steps


@pytest.mark.parametrize(
    ("name", "parameters", "field", "said"),
    [
        ("best", {}, "policy", "'best'"),
        ("goodput", {"margin": "1"}, "parameters", "itl_target_ms"),
        ("static", {}, "parameters.num_steps", "(0, 1, 2, 3, 5)"),
        ("static", {"num_steps": "4"}, "parameters.num_steps", "'4'"),
        ("static", {"num_steps": "-1"}, "parameters.num_steps", "'-1'"),
        ("static", {"num_steps": "٣"}, "parameters.num_steps", "(0, 1, 2, 3, 5)"),
        ("static", {"num_steps": "2", "x": "y"}, "parameters", "['num_steps']"),
        ("schedule", {}, "parameters.table", "SIZE:LENGTH"),
        ("schedule", {"table": "1:5,8"}, "parameters.table", "'8'"),
        ("schedule", {"table": "1:4"}, "parameters.table", "'4'"),
        ("schedule", {"table": "2:5"}, "parameters.table", "[2]"),
        ("schedule", {"table": "1:5,8:3,8:2"}, "parameters.table", "[1, 8, 8]"),
        ("schedule", {"table": "1:5,70000:0"}, "parameters.table", "65536"),
        ("schedule", {"table": ",".join(["1:0"] * 65)}, "parameters.table", "1 to 64"),
        ("ema", {"config": "["}, "parameters.config", "JSON object"),
        ("ema", {"config": "[1]"}, "parameters.config", "JSON object"),
        ("ema", {"config": "{}"}, "parameters.config", "1 to 64 slots"),
        ("ema", {"config": '{"0": {"candidate_steps": [1]}}'}, "parameters.config", "'0'"),
        ("ema", {"config": '{"1": 3}'}, "parameters.config.1", "an object"),
        ("ema", {"config": '{"1": {}}'}, "parameters.config.1.candidate_steps", "None"),
        (
            "ema",
            {"config": '{"1": {"candidate_steps": [true]}}'},
            "parameters.config.1.candidate_steps",
            "True",
        ),
        ("ema", {"config": '{"1": {"candidate_steps": [7]}}'}, "parameters.config.1.candidate_steps", "7"),
        ("ema", {"config": '{"1": {"candidate_steps": [1], "speed": 2}}'}, "parameters.config.1", "speed"),
        (
            "ema",
            {"config": '{"1": {"candidate_steps": [1]}, "ema_alpha": NaN}'},
            "parameters.config.1.ema_alpha",
            "nan",
        ),
        (
            "ema",
            {"config": '{"1": {"candidate_steps": [1], "update_interval": 0}}'},
            "parameters.config.1.update_interval",
            "1 to 1000000",
        ),
        ("turbospec", {"acceptance": "all"}, "parameters.acceptance", "'all'"),
        ("turbospec", {"rate": "0.7"}, "parameters", "['acceptance']"),
        ("turbospec", {str(index): "" for index in range(17)}, "parameters", "at most 16"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(name: str, parameters: dict[str, str], field: str, said: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        make_policy(name, parameters, profile())
    assert caught.value.field == field
    assert said in str(caught.value)


def test_sglangs_table_is_used_as_far_as_the_engines_lengths_go() -> None:
    engine = profile(candidate_num_steps=(0, 2, 3), launch_num_steps=3, max_running_requests=70)
    choice = make_policy("ema", {}, engine).choose(query(1), view())
    assert choice.tiers == ((31, 3), (70, 0))


def test_an_engine_that_can_run_nothing_of_sglangs_table_is_told_so() -> None:
    with pytest.raises(InvalidFieldError, match=r"config.*none is a candidate of \(0, 2\)"):
        make_policy("ema", {}, profile(candidate_num_steps=(0, 2), launch_num_steps=2))
