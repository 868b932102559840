"""The numbers that are quoted: each is checked against one worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.control_stats import control_stats
from benchmarks.results import Quantiles
from benchmarks.spread import Spread, percentile
from benchmarks.stats import Window, cell_stats
from tests.unit.benchmarks.builders import cell, control, request, run


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_lies_between_the_extremes(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found is not None
    assert min(values) - 1e-6 <= found <= max(values) + 1e-6


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_percentiles_0_and_100_are_the_extremes(values: list[float]) -> None:
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)


def test_no_values_have_neither_percentile_nor_spread() -> None:
    assert percentile([], 50) is None
    assert Spread.of([]) is None


def test_goodput_counts_only_tokens_inside_the_window() -> None:
    """Ramp and tail must not leak into the number; the end of the window is outside it."""
    measured = run("nospec", 0).model_copy(
        update={
            "window_start_s": 1.0,
            "window_end_s": 3.0,
            "requests": [request([(0.9, 100), (1.0, 3), (2.9, 4), (3.0, 100)])],
        }
    )
    assert Window.of(measured).tokens_per_s == pytest.approx(7 / 2)


def test_best_fixed_is_the_fixed_length_with_the_best_median_not_the_best_round() -> None:
    runs = [run("fixed:1", tokens, number=n) for n, tokens in enumerate((50, 50, 50))]
    runs += [run("fixed:3", tokens, number=n) for n, tokens in enumerate((40, 40, 900))]
    stats = cell_stats(cell(*runs))
    assert stats.best_fixed is not None
    assert stats.best_fixed.label == "fixed:1"


def test_the_better_of_both_can_be_no_speculation() -> None:
    stats = cell_stats(cell(run("nospec", 90), run("fixed:1", 50), run("turbospec", 90)))
    assert stats.best_plain is stats.nospec


def test_ratios_pair_runs_of_the_same_round() -> None:
    """The machine got twice as slow in round 1: pairing cancels that, a ratio of medians would not."""
    runs = [run("nospec", 100, number=0), run("turbospec", 150, number=0)]
    runs += [run("nospec", 50, number=1), run("turbospec", 60, number=1), run("turbospec", 999, number=2)]
    stats = cell_stats(cell(*runs))
    assert stats.turbospec is not None
    assert stats.nospec is not None
    ratio = stats.turbospec.ratio_to(stats.nospec)
    assert ratio is not None
    assert (ratio.low, ratio.high, ratio.count) == (pytest.approx(1.2), pytest.approx(1.5), 2)


def test_rounds_of_different_groups_are_not_paired() -> None:
    stats = cell_stats(cell(run("nospec", 100, group=0), run("turbospec", 150, group=1)))
    assert stats.turbospec is not None
    assert stats.nospec is not None
    assert stats.turbospec.ratio_to(stats.nospec) is None


def test_each_start_counts_as_one_observation() -> None:
    """Thirty rounds of servers that came up lucky are no more than one lucky start."""
    runs = [run("nospec", 100, number=n) for n in range(30)]
    runs += [run("turbospec", 110, number=n) for n in range(30)]
    for start in (1, 2):
        runs += [run("nospec", 100, group=start), run("turbospec", 98, group=start)]
    stats = cell_stats(cell(*runs))
    assert stats.turbospec is not None
    assert stats.nospec is not None
    ratio = stats.turbospec.ratio_to(stats.nospec)
    assert ratio is not None
    assert ratio.middle == pytest.approx((1.10 + 0.98 + 0.98) / 3)
    # Student's t with two degrees of freedom: 4.303 standard errors.
    assert ratio.high - ratio.middle == pytest.approx(4.303 * 0.04, rel=1e-3)
    assert ratio.middle - ratio.low == pytest.approx(ratio.high - ratio.middle)


def test_the_rounds_of_a_start_are_taken_together() -> None:
    """A prefill more in one round and one less in the next are no difference over both."""
    runs = []
    for start in (0, 1):
        runs += [run("nospec", 100, group=start, number=n) for n in (0, 1, 2)]
        runs += [run("turbospec", n, group=start, number=i) for i, n in enumerate((90, 150, 120))]
    stats = cell_stats(cell(*runs))
    assert stats.turbospec is not None
    assert stats.nospec is not None
    ratio = stats.turbospec.ratio_to(stats.nospec)
    assert ratio is not None
    assert (ratio.middle, ratio.low, ratio.high, ratio.count) == (pytest.approx(1.2),) * 3 + (2,)


def test_latencies_of_one_answer() -> None:
    chunks = [(1.0, 1), (1.1, 9), (1.4, 11)]
    measured = run("nospec", 0).model_copy(
        update={"window_end_s": 2.0, "requests": [request(chunks, sent_s=0.75)]}
    )
    stats = cell_stats(cell(measured)).variants["nospec"]
    assert stats.ttft_s == [pytest.approx(0.25)]
    assert stats.itl_s == [pytest.approx(0.1), pytest.approx(0.3)]
    assert stats.tpot_s == [pytest.approx(0.4 / 20)]


def test_an_answer_that_has_not_begun_by_the_end_has_no_latency() -> None:
    waiting = run("nospec", 0).model_copy(update={"requests": [request([], sent_s=0.75)]})
    stats = cell_stats(cell(waiting)).variants["nospec"]
    assert (stats.ttft_s, stats.tpot_s, stats.itl_s) == ([], [], [])


def test_an_answer_of_one_chunk_has_no_time_per_token() -> None:
    stats = cell_stats(cell(run("nospec", 500))).variants["nospec"]
    assert stats.tpot_s == []


def test_accepted_length_is_weighted_by_steps_not_by_requests() -> None:
    requests = [
        request([(0.5, 10)], verify_steps=1, accepted_drafts=5),
        request([(0.5, 10)], verify_steps=9, accepted_drafts=0),
        request([(0.5, 10)]),
    ]
    measured = run("fixed:5", 0).model_copy(update={"requests": requests})
    assert cell_stats(cell(measured)).variants["fixed:5"].mean_accepted_length == pytest.approx(1.5)


def test_outputs_are_compared_prompt_by_prompt_with_nospec() -> None:
    runs = [run("nospec", 1, digest="a"), run("fixed:1", 1, digest="a"), run("fixed:3", 1, digest="b")]
    runs.append(run("fixed:1", 1, number=1, digest="c"))  # nospec has not answered this one
    variants = cell_stats(cell(*runs)).variants
    assert (variants["fixed:1"].outputs_equal, variants["fixed:1"].outputs_compared) == (1, 1)
    assert (variants["fixed:3"].outputs_equal, variants["fixed:3"].outputs_compared) == (0, 1)


def test_variants_are_listed_in_a_fixed_order() -> None:
    labels = ("turbospec", "adaptive", "fixed:5", "fixed:1", "nospec")
    assert list(cell_stats(cell(*(run(label, 1) for label in labels))).variants) == [
        "nospec",
        "fixed:1",
        "fixed:5",
        "adaptive",
        "turbospec",
    ]


def test_control_is_summed_over_runs_and_shares_add_up() -> None:
    first = control(
        300,
        switches=3,
        committed_tokens=900,
        accepted_tokens=600,
        steps_by_num_steps={3: 200, 0: 100},
        steps_by_source={"lease": 299, "fallback": 1},
        fallbacks_by_reason={"late": 1},
    )
    second = control(100, switches=1, steps_by_num_steps={3: 100}, steps_by_source={"lease": 100})
    stats = control_stats([run("turbospec", 1, control=first), run("turbospec", 1, control=second)])
    assert stats is not None
    assert stats.steps == 400
    assert stats.switches_per_1000_steps == pytest.approx(10.0)
    assert stats.mean_accepted_length == pytest.approx(3.0)
    assert stats.share_by_num_steps == {0: pytest.approx(0.25), 3: pytest.approx(0.75)}
    assert math.isclose(sum(stats.share_by_source.values()), 1.0)
    assert stats.fallbacks_by_reason == {"late": 1}
    # The newest reading covers the engine's whole life, the earlier ones are part of it.
    assert stats.step_control_us.count == 100


def test_of_several_starts_the_slowest_control_is_shown() -> None:
    """The last start must not speak for one in which control took longer."""
    slow = control(100, step_control_us=Quantiles(count=100, p50=12.0, p99=90.0, max=95.0))
    runs = [run("turbospec", 1, group=0, control=slow), run("turbospec", 1, group=1, control=control(100))]
    stats = control_stats(runs)
    assert stats is not None
    assert stats.steps == 200
    assert stats.step_control_us.p99 == 90.0
    assert stats.decision_wait_us.p99 == 20.0


def test_without_a_counted_step_there_are_no_control_statistics() -> None:
    assert control_stats([run("turbospec", 1), run("turbospec", 1, control=control(0))]) is None
