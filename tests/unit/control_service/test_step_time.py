"""Step times: what is learned from served steps, what is predicted for others, and when it is not ready."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_service.core.buckets import BatchBuckets
from control_service.core.samples import SAMPLES_PER_REGIME, WITNESS_STEPS, RegimeSamples
from control_service.core.step_time import StepTimeModel
from tests.unit.control_service.factories import observation

LENGTHS = (0, 1, 3, 5)


def truth(batch: int, length: int, context: int) -> float:
    return (
        0.010
        + 0.002 * (length > 0)
        + 0.0005 * batch
        + 0.0015 * length
        + 0.0001 * batch * length
        + 1e-6 * context
    )


def feed(
    model: StepTimeModel, batch: int, length: int, steps: int, rng: random.Random, context: int = 500
) -> None:
    for _ in range(steps):
        here = int(context * rng.uniform(0.5, 1.5)) * batch
        duration_s = truth(batch, length, here) * rng.lognormvariate(0.0, 0.05)
        if rng.random() < 0.02:
            duration_s *= 3.0
        step = observation(1, length, (0,) * batch, duration_s, context_tokens=here)
        model.observe(step)


def ready(model: StepTimeModel):  # type: ignore[no-untyped-def]
    model.refit()
    assert model.fit is not None, model.not_ready_reason
    return model.fit


def test_buckets_are_captured_sizes_then_powers_of_two() -> None:
    buckets = BatchBuckets((2, 4, 12), 40)
    assert buckets.sizes == (2, 4, 12, 16, 32, 64)
    assert [buckets.sizes[buckets.index(size)] for size in (1, 2, 3, 12, 13, 33, 500)] == [
        2,
        2,
        4,
        12,
        16,
        64,
        64,
    ]
    # Within captured sizes the device works on the padded batch, beyond on the batch itself.
    assert [buckets.paid_size(size) for size in (1, 3, 12, 13, 33)] == [2, 4, 12, 13, 33]
    assert BatchBuckets((), 8).sizes == (1, 2, 4, 8)


def test_visited_cells_are_priced_closely_in_spite_of_outliers() -> None:
    rng, model = random.Random(1), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for batch in (1, 4, 8):
        for length in LENGTHS:
            feed(model, batch, length, 80, rng)
    fit = ready(model)
    for batch in (1, 4, 8):
        bucket = model.buckets.index(batch)
        expected = [truth(batch, length, 500 * batch) for length in LENGTHS]
        assert fit.seconds(bucket, batch, 500 * batch) == pytest.approx(expected, rel=0.03)


def test_unvisited_cells_are_predicted_from_visited_ones() -> None:
    rng, model = random.Random(2), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for batch, length in ((1, 0), (1, 1), (1, 5), (2, 3), (8, 0), (8, 3)):
        feed(model, batch, length, 60, rng)
    fit = ready(model)
    bucket = model.buckets.index(4)
    expected = [truth(4, length, 2_000) for length in LENGTHS]
    assert fit.seconds(bucket, 4, 2_000) == pytest.approx(expected, rel=0.12)
    # And it knows that it knows less there.
    assert fit.variance[bucket].min() > fit.variance[model.buckets.index(1), 0]


def test_a_length_that_never_ran_at_a_batch_size_is_worth_a_look_there() -> None:
    """However well the backbone fits what it was fitted to: it is out by some percent elsewhere."""
    rng, model = random.Random(3), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for size in (1, 2, 4):
        for length in LENGTHS:
            feed(model, size, length, 40, rng)
    feed(model, 8, 3, 200, rng)
    fit = ready(model)
    doubt = fit.variance[model.buckets.index(8)] ** 0.5
    assert doubt[LENGTHS.index(3)] < 0.03
    assert min(doubt[index] for index, length in enumerate(LENGTHS) if length != 3) >= 0.1


def test_a_cell_that_strays_from_the_backbone_is_believed() -> None:
    """A staircase: one cell costs half as much again as its neighbours say."""
    rng, model = random.Random(3), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for batch in (1, 4, 8):
        for length in LENGTHS:
            for _ in range(60):
                odd = 1.5 if (batch, length) == (4, 3) else 1.0
                duration_s = odd * truth(batch, length, 400) * rng.lognormvariate(0.0, 0.05)
                model.observe(observation(1, length, (0,) * batch, duration_s, context_tokens=400))
    fit = ready(model)
    seconds = fit.seconds(model.buckets.index(4), 4, 400)
    assert seconds[LENGTHS.index(3)] == pytest.approx(1.5 * truth(4, 3, 400), rel=0.04)
    assert seconds[LENGTHS.index(1)] == pytest.approx(truth(4, 1, 400), rel=0.06)


def test_context_has_a_price_and_it_is_never_negative() -> None:
    rng, model = random.Random(4), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for length in LENGTHS:
        for context in (200, 8_000):
            feed(model, 2, length, 60, rng, context)
    fit = ready(model)
    few, many = (fit.seconds(model.buckets.index(2), 2, context) for context in (400, 16_000))
    assert many - few == pytest.approx([0.0156] * len(LENGTHS), rel=0.15)
    assert all(cell.context_slope_s_per_token >= 0.0 for cell in model.cells())


def test_arrays_and_scalars_agree() -> None:
    rng, model = random.Random(5), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for length in LENGTHS:
        feed(model, 3, length, 20, rng)
    fit = ready(model)
    for bucket, paid, context in ((0, 1, 10), (2, 3, 1_500), (4, 16, 900_000)):
        one_by_one = [fit.step_seconds(bucket, index, paid, context) for index in range(len(LENGTHS))]
        assert fit.seconds(bucket, paid, context) == pytest.approx(one_by_one)


def test_steady_traffic_does_not_erase_what_was_learned_elsewhere() -> None:
    rng, model = random.Random(6), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for length in LENGTHS:
        feed(model, 8, length, 40, rng)
    feed(model, 1, 3, 5_000, rng)
    fit = ready(model)
    expected = [truth(8, length, 4_000) for length in LENGTHS]
    assert fit.seconds(model.buckets.index(8), 8, 4_000) == pytest.approx(expected, rel=0.08)


def test_what_ran_around_a_look_is_kept_of_a_regime_that_is_full() -> None:
    """Else hardly anything tells how fast the machine was in the five steps of another length."""
    samples = RegimeSamples()

    def run(first: int, last: int, length_index: int) -> None:
        for now in range(first, last):
            samples.add(
                length_index=length_index,
                bucket_index=0,
                paid_size=1,
                context_tokens=500,
                seconds=0.01,
                now=now,
            )

    run(0, 1_000, 1)
    run(1_000, 1_005, 2)
    run(1_005, 1_100, 1)
    kept = samples.arrays(1_100)
    taken_at = set((1_100 - kept.age_steps[kept.length_index == 1]).astype(int).tolist())
    near = set(range(1_000 - WITNESS_STEPS, 1_000)) | set(range(1_005, 1_005 + WITNESS_STEPS))
    assert len(near & taken_at) >= 0.9 * len(near)
    # Far from it, one in a few.
    assert len(set(range(900, 980)) & taken_at) <= 0.2 * 80


def test_sample_memory_is_bounded_and_the_idle_regime_goes_first() -> None:
    samples = RegimeSamples()
    for context_magnitude in range(20):
        for bucket in range(10):
            for repeat in range(200):
                samples.add(
                    length_index=0,
                    bucket_index=bucket,
                    paid_size=1,
                    context_tokens=4**context_magnitude,
                    seconds=0.01,
                    now=repeat,
                )
    assert len(samples) <= 64 * SAMPLES_PER_REGIME
    kept = samples.arrays(200)
    assert len(kept.seconds) == len(samples)
    assert kept.context_tokens.max() == 4**19


def test_a_step_whose_length_has_just_changed_is_no_price() -> None:
    rng, model = random.Random(8), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for length in LENGTHS:
        feed(model, 1, length, 20, rng)
    before = ready(model).seconds(0, 1, 500)
    for _ in range(200):
        model.observe(observation(1, 3, (0,), 1.0, previous_num_steps=0))
    assert model.changed_steps_total == 200
    assert ready(model).seconds(0, 1, 500) == pytest.approx(before, rel=1e-3)


def test_the_first_steps_of_a_length_are_not_believed_to_the_letter() -> None:
    """They may pay for what nobody used yet: two that took 35 % too long must leave room for another look."""
    rng, model = random.Random(12), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for length in (0, 1, 3):
        feed(model, 8, length, 60, rng)
    for _ in range(2):
        model.observe(observation(1, 5, (0,) * 8, 1.35 * truth(8, 5, 4_000), context_tokens=4_000))
    fit = ready(model)
    bucket = model.buckets.index(8)
    seen = fit.seconds(bucket, 8, 4_000)[3] / truth(8, 5, 4_000)
    assert 1.05 < seen < 1.3
    assert fit.variance[bucket, 3] ** 0.5 > 0.05
    # More of the same is a price.
    for _ in range(6):
        model.observe(observation(1, 5, (0,) * 8, 1.35 * truth(8, 5, 4_000), context_tokens=4_000))
    assert ready(model).seconds(bucket, 8, 4_000)[3] / truth(8, 5, 4_000) == pytest.approx(1.35, abs=0.04)


def test_says_why_it_is_not_ready() -> None:
    model = StepTimeModel(LENGTHS, BatchBuckets((), 16))
    assert "no steps" in model.not_ready_reason
    feed(model, 1, 3, 50, random.Random(9))
    model.refit()
    assert model.fit is None
    assert "lengths [3]" in model.not_ready_reason
    assert model.cells() == ()
    feed(model, 1, 0, 50, random.Random(9))
    model.refit()
    assert model.fit is not None
    assert model.not_ready_reason == ""


def test_a_fit_that_describes_nothing_is_not_used() -> None:
    rng, model = random.Random(10), StepTimeModel(LENGTHS, BatchBuckets((), 16))
    for _ in range(200):
        model.observe(observation(1, rng.choice(LENGTHS), (0,), 10.0 ** rng.uniform(-4.0, 1.5)))
    model.refit()
    assert model.fit is None
    assert "scatter" in model.not_ready_reason or "next to nothing" in model.not_ready_reason


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(LENGTHS),
            st.integers(1, 40),
            st.integers(0, 1 << 40),
            st.floats(1e-6, 60.0),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 100),
    st.integers(0, 1 << 40),
)
def test_no_input_makes_a_price_that_is_not_a_positive_number(
    history: list[tuple[int, int, int, float]], batch: int, context: int
) -> None:
    model = StepTimeModel(LENGTHS, BatchBuckets((4, 8), 32))
    for length, size, tokens, duration_s in history:
        model.observe(observation(1, length, (0,) * size, duration_s, context_tokens=tokens))
    model.refit()
    if model.fit is None:
        assert model.not_ready_reason
        return
    seconds = model.fit.seconds(model.buckets.index(batch), model.buckets.paid_size(batch), context)
    assert np.all(np.isfinite(seconds) & (seconds > 0.0))
    assert np.all(np.isfinite(model.fit.variance) & (model.fit.variance > 0.0))


def in_a_slow_minute(slowness: float) -> StepTimeModel:
    """Length 3 ran for six steps only, in a minute that was so much slower; it takes twice what 0 takes."""
    rng, model, index, previous = random.Random(4), StepTimeModel((0, 3), BatchBuckets((), 8)), 0, 0
    for block in range(40):
        factor = slowness if block in (2, 3, 4) else 1.0
        for place in range(16):
            index += 1
            length = 3 if block == 3 and place < 6 else 0
            seconds = (0.02 if length else 0.01) * factor * rng.lognormvariate(0.0, 0.03)
            model.observe(observation(index, length, (0, 0, 0, 0), seconds, previous_num_steps=previous))
            previous = length
    model.refit()
    return model


def test_a_length_that_ran_in_a_slow_minute_only_is_not_priced_by_it() -> None:
    """Others that ran beside it tell how slow the machine was; else it would cost 3 times length 0."""
    model, steady = in_a_slow_minute(1.5), in_a_slow_minute(1.0)
    assert model.fit is not None
    assert steady.fit is not None
    bucket = model.buckets.index(4)
    without, with_drafts = model.fit.seconds(bucket, 4, 400.0)
    assert 1.9 < with_drafts / without < 2.6
    # Few samples of a moving machine: more doubt than their number alone would leave.
    assert model.fit.variance[bucket, 1] > 4.0 * steady.fit.variance[bucket, 1]
