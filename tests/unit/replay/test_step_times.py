"""Step-time arithmetic and noise."""

from __future__ import annotations

import numpy as np
import pytest

from control_service.replay.step_times import (
    DraftTerms,
    Drift,
    DriftTerms,
    LinearStepTimes,
    Noise,
    NoiseTerms,
    PrefillTerms,
    VerifyTerms,
)
from tests.unit.replay.builders import step_time_file


def test_a_step_is_verify_plus_draft_plus_overhead() -> None:
    """By hand: the numbers of the documentation's formula."""
    file = step_time_file(
        draft={"eagle3": DraftTerms(context_s_per_token=1e-7, token_s=1e-5, fixed_s=2e-3)}, overhead_s=1e-3
    )
    seconds = LinearStepTimes(file, "eagle3").seconds(4.0, 3, 1000.0)
    verify = 1e-6 * 1000 + 1e-3 * 4 * 4 + 10e-3
    assert seconds == pytest.approx(verify + 3 * (1e-7 * 1000 + 1e-5 * 4 + 2e-3) + 1e-3)


def test_length_0_drafts_nothing() -> None:
    """Not even the share of verification that n-gram drafting takes."""
    file = step_time_file(draft={"ngram": DraftTerms(verify_share=0.5, fixed_s=1.0)})
    times = LinearStepTimes(file, "ngram")
    assert times.seconds(1.0, 0, 0.0) == pytest.approx(11e-3)
    assert times.seconds(1.0, 1, 0.0) == pytest.approx(12e-3 * 1.5 + 1.0)


def test_arrays_are_priced_element_by_element() -> None:
    """The judgement prices whole runs at once; it must agree with the loop."""
    times = LinearStepTimes(step_time_file(), "eagle3")
    batch, context = np.array([1.0, 8.0]), np.array([100.0, 5000.0])
    for length in (0, 3):
        one_by_one = [times.seconds(float(b), length, float(c)) for b, c in zip(batch, context, strict=True)]
        assert times.seconds(batch, length, context) == pytest.approx(one_by_one)


def test_prefill_costs_nothing_unless_given() -> None:
    """The default is documented as 0."""
    assert LinearStepTimes(step_time_file(), "eagle3").prefill_seconds(1000) == 0.0
    file = step_time_file(prefill=PrefillTerms(token_s=1e-4, fixed_s=5e-3))
    assert LinearStepTimes(file, "eagle3").prefill_seconds(1000) == pytest.approx(0.105)


def test_noise_has_mean_one_but_for_its_outliers() -> None:
    """A scatter that shifted the mean would make the noise-free truth untrue."""
    terms = NoiseTerms(lognormal_sigma=0.05, outlier_share=0.01, outlier_factor=3.0)
    noise = Noise(terms, np.random.SeedSequence(0))
    factors = np.array([noise.factor() for _ in range(50_000)])
    assert float(np.mean(factors > 2.0)) == pytest.approx(0.01, abs=0.002)
    assert float(factors[factors < 2.0].mean()) == pytest.approx(1.0, abs=0.002)
    assert float(np.log(factors[factors < 2.0]).std()) == pytest.approx(0.05, abs=0.002)


def test_without_noise_a_step_takes_its_time() -> None:
    """Zero sigma is exact."""
    noise = Noise(NoiseTerms(), np.random.SeedSequence(0))
    assert {noise.factor() for _ in range(10)} == {1.0}


def test_slow_seconds_are_the_same_whoever_asks_how_often() -> None:
    """Else a policy with shorter steps would meet another machine."""
    terms = DriftTerms(factors=(1.0, 1.5), mean_s=1.0)
    coarse, fine = (Drift(terms, np.random.SeedSequence(3)) for _ in range(2))
    by_second = [coarse.factor(second) for second in range(100)]
    by_tenth = [fine.factor(tenth / 10) for tenth in range(1000)]
    assert by_tenth[::10] == by_second
    assert set(by_second) == {1.0, 1.5}


def test_a_speed_lasts_as_long_as_was_asked_for() -> None:
    """Of two factors half of the changes go unseen, so a run of one lasts twice the mean."""
    drift = Drift(DriftTerms(factors=(1.0, 1.5), mean_s=1.0), np.random.SeedSequence(0))
    factors = np.array([drift.factor(tenth / 10) for tenth in range(50_000)])
    changes = int(np.count_nonzero(np.diff(factors)))
    assert 5_000 / changes == pytest.approx(2.0, rel=0.1)


def test_a_steady_machine_does_not_drift() -> None:
    """The default."""
    assert Drift(None, np.random.SeedSequence(0)).factor(1e6) == 1.0


def test_a_model_in_which_steps_take_no_time_is_refused() -> None:
    """Virtual time would stand still."""
    with pytest.raises(ValueError, match="must not all be 0"):
        step_time_file(verify=VerifyTerms(context_s_per_token=1e-6, token_s=0.0, fixed_s=0.0))
