"""Laws of the core that hold for any input the wire contract lets through."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from control_service.core.acceptance import AcceptanceModel
from control_service.core.forecast import Forecaster
from control_service.core.models import EngineModels
from control_service.core.policies.make import make_policy
from control_service.core.rate_counter import SLOW_WINDOW_STEPS
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import EngineProfile, Mode, StepObservation, StepQuery
from tests.unit.control_service.factories import observation, profile

# Derandomised: the same examples every time, so that a red run is a broken law and not luck.
FEW = settings(deadline=None, derandomize=True, max_examples=20)
SOME = settings(deadline=None, derandomize=True, max_examples=60)
MANY = settings(deadline=None, derandomize=True, max_examples=150)
# Many drawn steps do not amount to a fit.
FITS = settings(MANY, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])

LENGTH_MAX = 7
BATCH_MAX = 4_096
CONTEXT_MAX = 10**9
# Steps beyond a minute are refused at the door.
SECONDS_MIN, SECONDS_MAX = 1e-6, 60.0
POLICIES: tuple[tuple[str, dict[str, str]], ...] = (
    ("goodput", {}),
    ("static", {"num_steps": "0"}),
    ("schedule", {"table": "1:0"}),
    ("ema", {"config": '{"1": {"candidate_steps": [0]}}'}),
    ("turbospec", {}),
)


@st.composite
def accepted_steps(draw: st.DrawFn) -> list[tuple[int, tuple[int, ...]]]:
    """(length run, accepted drafts per request) of some steps."""
    length = st.integers(0, LENGTH_MAX)
    step = length.flatmap(
        lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k), min_size=1, max_size=8).map(tuple))
    )
    return draw(st.lists(step, max_size=40))


@st.composite
def profiles(draw: st.DrawFn) -> EngineProfile:
    candidates = (0, *sorted(draw(st.sets(st.integers(1, 32), max_size=8))))
    captured = tuple(sorted(draw(st.sets(st.integers(1, BATCH_MAX), max_size=6))))
    return profile(
        candidate_num_steps=candidates,
        graph_batch_sizes=captured,
        max_running_requests=draw(st.integers(1, BATCH_MAX)),
        launch_num_steps=draw(st.sampled_from(candidates)),
    )


BATCHES = st.one_of(st.integers(1, 16), st.sampled_from((1, 255, 257, 1_024, BATCH_MAX)))
CONTEXTS = st.one_of(st.integers(0, 100_000), st.sampled_from((0, 1, CONTEXT_MAX)))


@st.composite
def served_steps(draw: st.DrawFn, engine: EngineProfile, most: int = 30) -> list[StepObservation]:
    """Valid steps of an engine, as odd as the contract allows.

    Times follow batch, length and context with some scatter, or nothing at all.
    """
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    scale_s = 10.0 ** draw(st.floats(-6.0, 1.0))
    share_of = {
        name: draw(st.sampled_from((0.0, 1e-6, 1e-2, 1.0))) for name in ("batch", "drafts", "context")
    }
    scatter = draw(st.sampled_from((0.0, 0.05, 0.05, 0.5, 5.0)))
    batches = draw(st.lists(BATCHES, min_size=1, max_size=3))
    contexts = draw(st.lists(CONTEXTS, min_size=1, max_size=3))
    hold, first_share = draw(st.sampled_from((1, 4))), draw(st.sampled_from((0.0, 0.1)))
    steps: list[StepObservation] = []
    for index in range(1, 1 + draw(st.integers(0, most))):
        batch, context = rng.choice(batches), rng.choice(contexts)
        length = steps[-1].num_steps if steps and index % hold else rng.choice(engine.candidate_num_steps)
        weight = (
            share_of["batch"] * batch + share_of["drafts"] * batch * length + share_of["context"] * context
        )
        seconds = scale_s * (1.0 + weight) * math.exp(rng.gauss(0.0, scatter))
        step = observation(
            index,
            length,
            tuple(rng.randint(0, length) for _ in range(batch)),
            min(max(seconds, SECONDS_MIN), SECONDS_MAX),
            context_tokens=context,
            first_step=(rng.random() < first_share,) * batch,
            previous_num_steps=steps[-1].num_steps if steps else length,
        )
        steps.append(step)
    return steps


def fitted(engine: EngineProfile, data: st.DataObject) -> Forecaster:
    """What the models make of some steps; examples without a fit are no examples."""
    models = EngineModels(engine)
    for step in data.draw(served_steps(engine, most=60)):
        models.observe(step)
    models.refit()
    assume(models.forecaster is not None)
    assert models.forecaster is not None
    return models.forecaster


def learned(steps: list[tuple[int, tuple[int, ...]]]) -> AcceptanceModel:
    model = AcceptanceModel(LENGTH_MAX)
    for length, accepted in steps:
        model.observe(length, accepted)
    return model


def drawn(rate: float, batch: int, length: int, rng: random.Random) -> tuple[int, ...]:
    """Accepted drafts of a batch whose every draft is accepted with this chance."""

    def one() -> int:
        count = 0
        while count < length and rng.random() < rate:
            count += 1
        return count

    return tuple(one() for _ in range(batch))


# Acceptance


@MANY
@given(steps=accepted_steps())
def test_a_longer_draft_never_commits_less_nor_more_than_it_has(
    steps: list[tuple[int, tuple[int, ...]]],
) -> None:
    table = learned(steps).table()
    rates = table.rate[:LENGTH_MAX]
    assert np.all((rates > 0.0) & (rates <= 1.0))
    assert np.all(np.diff(np.cumprod(rates)) <= 0.0)
    assert table.tokens[0] == 1.0
    assert np.all(np.diff(table.tokens) >= -1e-12)
    assert np.all(table.tokens <= np.arange(LENGTH_MAX + 1) + 1.0)


@MANY
@given(steps=accepted_steps())
def test_variances_are_never_negative(steps: list[tuple[int, tuple[int, ...]]]) -> None:
    table = learned(steps).table()
    assert np.all(np.isfinite(table.variance) & (table.variance >= 0.0))
    for length in range(LENGTH_MAX + 1):
        assert table.standard_error(length) >= 0.0


@SOME
@given(steps=accepted_steps(), seed=st.integers(0, 99))
def test_the_order_of_requests_in_a_step_means_nothing(
    steps: list[tuple[int, tuple[int, ...]]], seed: int
) -> None:
    rng = random.Random(seed)
    shuffled = [(length, tuple(rng.sample(accepted, len(accepted)))) for length, accepted in steps]
    assert learned(steps).positions() == learned(shuffled).positions()


@SOME
@given(engine=profiles(), data=st.data(), seed=st.integers(0, 99))
def test_nor_does_it_with_first_steps_among_them(
    engine: EngineProfile, data: st.DataObject, seed: int
) -> None:
    rng, here, there = random.Random(seed), EngineModels(engine), EngineModels(engine)
    for step in data.draw(served_steps(engine, most=8)):
        flags = tuple(rng.random() < 0.3 for _ in step.accepted_drafts)
        inside = tuple(rng.random() < 0.3 for _ in step.accepted_drafts)
        order = rng.sample(range(step.batch_size), step.batch_size)
        here.observe(step._replace(first_step=flags, after_full_accept=inside))
        there.observe(
            step._replace(
                accepted_drafts=tuple(step.accepted_drafts[place] for place in order),
                first_step=tuple(flags[place] for place in order),
                after_full_accept=tuple(inside[place] for place in order),
            )
        )
    assert here.acceptance.positions() == there.acceptance.positions()


@SOME
@given(steps=accepted_steps(), length=st.integers(0, LENGTH_MAX))
def test_a_step_says_nothing_beyond_its_length_and_all_within(
    steps: list[tuple[int, tuple[int, ...]]], length: int
) -> None:
    """The same truth run at full length, and cut off at `length`."""
    full = [(LENGTH_MAX, accepted) for _, accepted in steps]
    cut = [(length, tuple(min(count, length) for count in accepted)) for _, accepted in steps]
    whole, short = learned(full).positions(), learned(cut).positions()
    assert short[:length] == whole[:length]
    assert all(position.accepted == position.rejected == 0.0 for position in short[length:])


@FEW
@given(
    before=st.floats(0.05, 0.95),
    after=st.floats(0.05, 0.95),
    batch=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_after_a_change_of_truth_the_estimate_converges(
    before: float, after: float, batch: int, seed: int
) -> None:
    rng, model = random.Random(seed), AcceptanceModel(1)
    steps = int(SLOW_WINDOW_STEPS)
    for rate, count in ((before, steps), (after, 3 * steps)):
        for _ in range(count):
            model.observe(1, drawn(rate, batch, 1, rng))
    # What is left of the old truth after three windows, and four standard errors of a window.
    left = abs(after - before) * math.exp(-3.0)
    luck = 4.0 * math.sqrt(after * (1.0 - after) / (batch * steps))
    assert abs(float(model.table().rate[0]) - after) <= left + luck


@FEW
@given(batch=st.integers(1, 8), rate=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_evidence_does_not_pile_up_for_ever(batch: int, rate: float, seed: int) -> None:
    rng, model = random.Random(seed), AcceptanceModel(1)
    for _ in range(5 * int(SLOW_WINDOW_STEPS)):
        model.observe(1, drawn(rate, batch, 1, rng))
    position = model.positions()[0]
    assert position.accepted + position.rejected <= batch * (SLOW_WINDOW_STEPS + 1.0)


# Step time


@FITS
@given(engine=profiles(), data=st.data())
def test_a_fit_prices_every_step_at_a_finite_positive_time(
    engine: EngineProfile, data: st.DataObject
) -> None:
    forecaster = fitted(engine, data)
    for batch in (1, 7, 255, BATCH_MAX):
        for context in (0, 10_000, CONTEXT_MAX):
            forecast = forecaster.batch(batch, context)
            assert np.all(np.isfinite(forecast.seconds) & (forecast.seconds > 0.0))
            for prediction in forecast.predictions():
                assert all(math.isfinite(value) for value in prediction)
                assert batch <= prediction.expected_tokens <= batch * (prediction.num_steps + 1)
                assert prediction.goodput_standard_error_tokens_per_s >= 0.0
            for index in range(len(engine.candidate_num_steps)):
                gain, error = forecast.gains(index)
                assert np.all(np.isfinite(gain) & np.isfinite(error) & (error >= 0.0))


@settings(FITS, phases=[Phase.generate])
@given(engine=profiles(), data=st.data())
def test_more_context_never_makes_a_step_cheaper(engine: EngineProfile, data: st.DataObject) -> None:
    forecaster = fitted(engine, data)
    for batch in (1, engine.max_running_requests):
        contexts = (0, 100, 10_000, 1_000_000, CONTEXT_MAX)
        seconds = [forecaster.batch(batch, context).seconds for context in contexts]
        for fewer, more in pairwise(seconds):
            assert np.all(more >= fewer * (1.0 - 1e-9))


# Policies and sessions


def session(engine: EngineProfile, name: str, parameters: dict[str, str]) -> EngineSession:
    policy = make_policy(name, parameters, engine)
    return EngineSession(
        engine, mode=Mode.ENFORCE, policy=policy, models=EngineModels(engine), terms=LeaseTerms()
    )


@pytest.mark.parametrize(("name", "parameters"), POLICIES)
@SOME
@given(engine=profiles(), data=st.data())
def test_every_policy_always_gives_a_valid_answer(
    name: str, parameters: dict[str, str], engine: EngineProfile, data: st.DataObject
) -> None:
    target = session(engine, name, parameters)
    for step in data.draw(served_steps(engine)):
        target.set_mode(data.draw(st.sampled_from((Mode.SHADOW, Mode.ENFORCE))), 0)
        batch = data.draw(st.integers(1, engine.max_running_requests))
        ahead = data.draw(st.sampled_from((0, 0, 0, 3, 5_000)))
        lease = target.decide(StepQuery(step.step_index + ahead, batch, data.draw(CONTEXTS), 0))
        choice = target.decisions[-1].choice
        assert choice.num_steps in engine.candidate_num_steps
        assert choice.reason
        assert choice.hold_steps is None or choice.hold_steps >= 1
        sizes = [tier.max_batch_size for tier in lease.tiers]
        assert all(low < high for low, high in pairwise(sizes))
        assert sizes[0] >= 1
        assert sizes[-1] >= engine.max_running_requests
        assert {tier.num_steps for tier in lease.tiers} <= set(engine.candidate_num_steps)
        covering = next(tier for tier in lease.tiers if batch <= tier.max_batch_size)
        assert covering.num_steps == choice.num_steps
        assert all(math.isfinite(value) for row in choice.predictions for value in row)
        assert target.observe(step) is None
        if target.needs_refit:
            target.refit()


@SOME
@given(engine=profiles(), data=st.data())
def test_every_step_is_counted_or_dropped_with_a_cause(engine: EngineProfile, data: st.DataObject) -> None:
    target, offered, taken = session(engine, "static", {"num_steps": "0"}), 0, 0
    for step in data.draw(served_steps(engine)):
        broken = data.draw(
            st.sampled_from(
                (
                    step,
                    step._replace(step_index=1),
                    step._replace(step_index=0),
                    step._replace(batch_size=step.batch_size + 1),
                    step._replace(duration_s=math.nan),
                    step._replace(num_steps=64),
                    step._replace(first_step=()),
                    step._replace(source="rumour"),
                )
            )
        )
        offered += 1
        taken += target.observe(broken) is None
    counters = target.counters
    assert counters.steps_total == taken
    assert counters.steps_total == offered - sum(counters.drops_by_cause.values())
    assert counters.steps_total == sum(counters.steps_by_num_steps.values())
    assert counters.steps_total == sum(counters.steps_by_source.values())
