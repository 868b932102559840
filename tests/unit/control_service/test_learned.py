"""Learned state as plain values: a round trip predicts the same, what is odd is refused by field."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_service.core.acceptance import AcceptanceModel
from control_service.core.learned import (
    LOADED_AGE_STEPS,
    LOADED_COUNT_SHARE,
    SAMPLES_MAX,
    models_from_state,
    snapshot_of,
    state_of,
)
from control_service.core.models import EngineModels
from control_service.core.rate_counter import RateCounter
from control_service.core.validation import InvalidFieldError
from control_service.store.envelope import seal
from tests.unit.control_service.factories import observation, profile

PROFILE = profile()


def learned(steps: int = 600, batches: tuple[int, ...] = (1, 4, 16)) -> EngineModels:
    models = EngineModels(PROFILE)
    chance = random.Random(1)
    for index in range(1, steps + 1):
        length = chance.choice(PROFILE.candidate_num_steps)
        batch = chance.choice(batches)
        accepted = tuple(min(length, int(chance.expovariate(0.6))) for _ in range(batch))
        seconds = (0.01 + 0.001 * batch + 0.0007 * length) * chance.lognormvariate(0.0, 0.05)
        first = tuple(chance.random() < 0.05 for _ in range(batch))
        inside = tuple(chance.random() < 0.3 for _ in range(batch))
        context = batch * chance.choice((200, 2_000))
        step = observation(index, length, accepted, seconds, first_step=first, context_tokens=context)
        models.observe(step._replace(after_full_accept=inside))
    models.refit()
    return models


def state() -> dict[str, Any]:
    """As it comes out of a file."""
    plain: dict[str, Any] = json.loads(json.dumps(state_of(snapshot_of(learned())), allow_nan=False))
    return plain


def test_loaded_models_predict_what_the_saved_ones_did() -> None:
    before, after = learned(), models_from_state(state(), PROFILE)
    assert before.forecaster is not None
    assert after.forecaster is not None
    for batch, context in ((1, 200), (4, 800), (16, 32_000)):
        was = before.forecaster.batch(batch, context).predictions()
        now = after.forecaster.batch(batch, context).predictions()
        for old, new in zip(was, now, strict=True):
            assert new.expected_step_s == pytest.approx(old.expected_step_s, rel=0.03)
            assert new.expected_tokens == pytest.approx(old.expected_tokens, rel=0.03)
            # Yesterday's evidence is worth less than today's.
            assert new.goodput_standard_error_tokens_per_s > old.goodput_standard_error_tokens_per_s
    assert after.generation > before.generation


def test_loaded_evidence_counts_as_older() -> None:
    before, after = learned(), models_from_state(state(), PROFILE)
    was, now = snapshot_of(before), snapshot_of(after)
    assert sorted(now.samples.age_steps) == sorted(was.samples.age_steps + LOADED_AGE_STEPS)
    assert np.array_equal(np.sort(now.samples.seconds), np.sort(was.samples.seconds.round(7)))
    for name in ("acceptance", "first_step_acceptance"):
        old, new = getattr(was, name), getattr(now, name)
        assert new.accepted == pytest.approx([LOADED_COUNT_SHARE * count for count in old.accepted], abs=1e-3)
        assert new.rejected == pytest.approx([LOADED_COUNT_SHARE * count for count in old.rejected], abs=1e-3)
        inside = [LOADED_COUNT_SHARE * count for count in old.inside_by_length]
        assert new.inside_by_length == pytest.approx(inside, abs=1e-3)


def test_nothing_that_is_learned_is_forgotten_to_be_saved() -> None:
    """A new attribute of a model must be put into the state, or be named here as not worth keeping."""
    acceptance = {"_length_max", "_clock", "_positions", "_inside", "_inside_by_length"}
    assert vars(AcceptanceModel(3)).keys() - acceptance == {"changes_total"}
    counter = {"_accepted", "_rejected", "_seen_at"}
    forgotten = {"_lately_accepted", "_lately_rejected", "_lately_log_odds", "_idle_steps"}
    assert set(RateCounter.__slots__) - counter == {"_window_steps"} | forgotten
    derived = {"_lengths", "_index", "_buckets", "_seen_by_length", "_counts", "fit", "not_ready_reason"}
    step_time = vars(EngineModels(PROFILE).step_time).keys() - derived - {"_samples", "_clock"}
    assert step_time == {"_errors", "changed_steps_total"}


def test_fresh_steps_move_loaded_models_sooner_than_the_ones_that_went_on() -> None:
    went_on, loaded = learned(), models_from_state(state(), PROFILE)
    rates = []
    for models in (went_on, loaded):
        for index in range(1_001, 1_101):
            length = PROFILE.candidate_num_steps[index // 20 % 5]
            models.observe(observation(index, length, (0,) * 4, 0.020, context_tokens=800))
        models.refit()
        assert models.forecaster is not None
        rates.append(models.forecaster.batch(4, 800).predictions())
    # Every length takes 20 ms now.
    for old, new in zip(*rates, strict=True):
        assert abs(new.expected_step_s - 0.020) < abs(old.expected_step_s - 0.020)


def test_a_snapshot_is_not_changed_by_later_steps() -> None:
    models = learned()
    snapshot = snapshot_of(models)
    before = state_of(snapshot)
    for index in range(1_000, 1_400):
        models.observe(observation(index, 1, (0,), 9.0))
    assert state_of(snapshot) == before


def test_the_largest_state_there_can_be_stays_small() -> None:
    lengths = (0, 1, 2, 3, 5, 7, 9, 12)
    wide = profile(candidate_num_steps=lengths, launch_num_steps=12, max_running_requests=128)
    models, chance = EngineModels(wide), random.Random(2)
    for index in range(1, 20_001):
        length, batch = lengths[index % 8], 1 << (index // 8) % 8
        seconds = 0.02 * chance.lognormvariate(0.0, 0.2)
        context = chance.randrange(256, 1_000) * batch
        step = observation(index, length, (0,) * batch, seconds, context_tokens=context)
        models.observe(step)
    snapshot = snapshot_of(models)
    assert len(snapshot.samples.seconds) > SAMPLES_MAX // 2
    assert len(seal("key", 1, state_of(snapshot))) < 160_000


def _put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            state = state[parent]
        if isinstance(state[name], list) and not isinstance(value, list | dict | str):
            state[name][0] = value
        else:
            state[name] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("lengths", [0, 1, 2]),
        ("bucket_sizes", [1, 2, 4, 8, 32]),
        ("generation", 0),
        ("generation", 1.0),
        ("acceptance", []),
        ("acceptance.accepted", -0.5),
        ("acceptance.accepted", math.inf),
        ("acceptance.accepted", math.nan),
        ("acceptance.accepted", True),
        ("acceptance.rejected", "1"),
        ("acceptance.rejected", [0.0]),
        ("first_step_acceptance.steps_since", -1),
        ("first_step_acceptance.steps_since", 1.5),
        ("acceptance.inside_by_length", -1.0),
        ("acceptance.inside_by_length", [0.0]),
        ("samples.length_index", 5),
        ("samples.bucket_index", -1),
        ("samples.paid_size", 0),
        ("samples.context_tokens", 1 << 60),
        ("samples.seconds", 0.0),
        ("samples.seconds", 61.0),
        ("samples.seconds", math.nan),
        ("samples.seconds", None),
        ("samples.seconds", "many"),
        ("samples.seconds", [0.01] * (SAMPLES_MAX + 1)),
        ("samples.seconds", []),
        ("samples.age_steps", -1),
        ("samples.age_steps", [0]),
    ],
)
def test_an_odd_value_is_refused_by_field(path: str, value: Any) -> None:
    odd = state()
    _put(path, value)(odd)
    with pytest.raises(InvalidFieldError) as caught:
        models_from_state(odd, PROFILE)
    # Without a list of seconds it is the first other column that does not fit.
    seconds_lost = path == "samples.seconds" and value in ([], "many")
    named = "samples.length_index" if seconds_lost else path
    assert caught.value.field in (named, named.partition(".")[0])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
SMALL_STATE = state_of(snapshot_of(learned(40)))


@given(st.data())
def test_whatever_is_put_in_is_refused_by_field_or_usable(data: st.DataObject) -> None:
    odd = copy.deepcopy(SMALL_STATE)
    place: Any = odd
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON_VALUES)
    try:
        models = models_from_state(odd, PROFILE)
    except InvalidFieldError:
        return
    assert models.forecaster is not None
    for prediction in models.forecaster.batch(4, 800).predictions():
        assert prediction.expected_step_s > 0.0
        assert 4.0 <= prediction.expected_tokens <= 4.0 * (1 + prediction.num_steps)


@pytest.mark.parametrize("field", ["acceptance", "samples"])
def test_a_missing_or_unknown_field_is_refused(field: str) -> None:
    missing, unknown = state(), state()
    del missing[field]
    unknown[field]["surprise"] = 1
    for odd in (missing, unknown):
        with pytest.raises(InvalidFieldError):
            models_from_state(odd, PROFILE)


def test_too_little_for_a_fit_is_refused() -> None:
    models = EngineModels(PROFILE)
    for index in range(1, 50):
        models.observe(observation(index, 1, (1,)))
    with pytest.raises(InvalidFieldError, match="enough for a fit"):
        models_from_state(state_of(snapshot_of(models)), PROFILE)
