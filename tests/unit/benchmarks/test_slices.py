"""Slices inside the schedulers: the numbers that are quoted, against some worked out by hand."""

import pytest

from benchmarks.arms import OURS
from benchmarks.results import Slice, Step
from benchmarks.slices import evened, slice_stats, step_time_ratio
from benchmarks.stats import cell_stats, clearly_behind
from tests.unit.benchmarks.builders import cell, run


def slice_of(variant: str, sweep: int, *steps: Step, start: int = 0, server: str = OURS) -> Slice:
    return Slice(server=server, start=start, sweep=sweep, variant=variant, steps=list(steps))


def step(num_steps: int, seconds: float, *tokens: float) -> Step:
    return Step(num_steps=num_steps, seconds=seconds, tokens=dict(enumerate(tokens)))


def test_a_ratio_of_arms_is_of_all_sweeps_and_its_error_of_tenths_of_them() -> None:
    slices = []
    for sweep in range(40):
        # The machine gets slower and slower: whoever shares a sweep shares that.
        slices += [
            slice_of(OURS, sweep, step(3, 1.01 * (1.0 + sweep), 3)),
            slice_of("fixed:3", sweep, step(3, 1.0 + sweep, 3)),
        ]
    stats = cell_stats(cell(run(OURS, 1), slices=slices))
    assert stats.turbospec is not None
    assert stats.best_fixed is not None
    found = stats.turbospec.ratio_to(stats.best_fixed)
    assert found is not None
    assert (found.middle, found.low, found.high) == (pytest.approx(1 / 1.01),) * 3
    assert found.count == 10
    assert stats.best_fixed.outputs_compared == 0


def test_an_arm_is_clearly_behind_if_the_noise_cannot_explain_it() -> None:
    slices = []
    for sweep in range(40):
        noise = 0.02 * (-1) ** (sweep // 4)
        slices += [
            slice_of("fixed:1", sweep, step(1, 1.0, 2)),
            slice_of("fixed:2", sweep, step(2, 1.01 + noise, 2)),
            slice_of("fixed:3", sweep, step(3, 1.06 + noise, 2)),
            slice_of(OURS, sweep, step(1, 2.0, 2)),
        ]
    measured = cell(run(OURS, 1), slices=slices)
    assert clearly_behind(cell_stats(measured)) == ["fixed:3"]
    measured.behind = ["fixed:3"]
    assert clearly_behind(cell_stats(measured)) == []
    few = cell(run(OURS, 1), slices=slices[:8])
    assert clearly_behind(cell_stats(few)) == [], "two sweeps are no evidence"


def test_a_length_that_left_early_is_not_the_best_for_having_met_a_fast_machine() -> None:
    slices = [slice_of("fixed:1", 0, step(1, 0.5, 2))]
    slices += [slice_of("fixed:3", sweep, step(3, 1.0, 3)) for sweep in range(10)]
    measured = cell(run(OURS, 1), slices=slices)
    measured.behind = ["fixed:1"]
    best = cell_stats(measured).best_fixed
    assert best is not None
    assert best.label == "fixed:3"


def test_what_control_costs_a_step_does_not_depend_on_when_an_arm_left() -> None:
    """The machine is slower later, where only ours still runs that length."""
    slices = []
    for sweep in range(40):
        seconds = 1.0 if sweep < 20 else 2.0
        slices.append(slice_of(OURS, sweep, step(1, 1.01 * seconds, 2)))
        if sweep < 20:
            slices.append(slice_of("fixed:1", sweep, step(1, seconds, 2)))
    found = step_time_ratio(slice_stats(slices), OURS)
    assert found is not None
    whole, parts = found
    assert [whole, *parts] == [pytest.approx(1.01)] * 6


def test_servers_of_their_own_have_all_their_turns() -> None:
    runs = [run(f"fixed:{k}", 10 * k, number=n) for n in range(20) for k in (1, 3)]
    assert clearly_behind(cell_stats(cell(*runs))) == []


def test_two_servers_are_compared_start_by_start() -> None:
    """Ten tenths of one lucky start are one observation."""
    slices = []
    for start, seconds in enumerate((1.0, 2.0)):
        for sweep in range(20):
            slices.append(slice_of(OURS, sweep, step(1, 0.5, 2), start=start))
            slices.append(slice_of("nospec", sweep, step(0, seconds, 1), start=start, server="nospec"))
    stats = cell_stats(cell(run(OURS, 1), run("nospec", 1), slices=slices))
    assert stats.turbospec is not None
    assert stats.nospec is not None
    found = stats.turbospec.ratio_to(stats.nospec)
    assert found is not None
    assert (found.middle, found.count) == (pytest.approx((4 + 8) / 2), 2)


def test_arms_that_ran_the_same_length_differ_by_time_alone_once_texts_are_evened_out() -> None:
    slices = [
        slice_of(OURS, 1, step(3, 1.0, 2)),
        slice_of("fixed:3", 1, step(3, 1.0, 4)),
        # Another batch size is another kind of step.
        slice_of("fixed:3", 1, step(3, 1.0, 1, 1)),
        slice_of("fixed:1", 1, step(1, 1.0, 2)),
    ]
    tokens = [one.steps[0].tokens for one in evened(slices)]
    assert tokens == [{0: 3.0}, {0: 3.0}, {0: 1.0, 1: 1.0}, {0: 2.0}]
    stats = cell_stats(cell(run(OURS, 1), slices=[one for one in slices if len(one.steps[0].tokens) == 1]))
    ours, fixed = stats.variants[OURS], stats.variants["fixed:3"]
    even, plain = ours.ratio_to(fixed), ours.ratio_to(fixed, evened=False)
    assert even is not None
    assert plain is not None
    assert (even.middle, plain.middle) == (1.0, 0.5)
    assert stats.best_fixed is fixed


def test_latencies_are_of_the_steps_that_served_a_request() -> None:
    """Request 1 has ended before the second step; the first needs two slices for its tokens."""
    slices = [slice_of(OURS, 1, step(3, 0.1, 8, 1), step(3, 0.3, 4, 0)), slice_of(OURS, 2, step(3, 0.4, 4))]
    stats = slice_stats(slices)[OURS]
    assert stats.itl_s == [0.1, 0.1, 0.3, 0.4]
    assert stats.tpot_s(16) == [pytest.approx(0.8 / 16)]
    assert stats.mean_accepted_length == pytest.approx(17 / 4)


def test_what_control_costs_a_step_is_told_by_steps_of_equal_kind_alone() -> None:
    slices = []
    for sweep in range(20):
        slices += [
            # Two of three steps at length 3 take 10 % longer than in the fixed arm, the other is its equal.
            slice_of(OURS, sweep, step(3, 1.1, 3), step(3, 1.1, 3), step(1, 0.5, 1)),
            slice_of("fixed:3", sweep, step(3, 1.0, 3)),
            slice_of("fixed:1", sweep, step(1, 0.5, 1), step(1, 9.0, 1, 1)),
            # Another server may be slower for reasons of its own.
            slice_of("adaptive", sweep, step(3, 7.0, 3), server="adaptive"),
        ]
    found = step_time_ratio(slice_stats(slices), OURS)
    assert found is not None
    whole, parts = found
    assert whole == pytest.approx(1.1 ** (2 / 3))
    assert parts == [pytest.approx(whole)] * 10
    assert step_time_ratio(slice_stats(one for one in slices if one.variant != OURS), OURS) is None
    assert step_time_ratio(slice_stats([slice_of(OURS, 1, step(5, 1.0, 1))]), OURS) is None
