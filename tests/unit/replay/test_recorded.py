"""A recording of a known world gives that world back."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from control_service.core.types import StepObservation
from control_service.replay.errors import ReplayInputError
from control_service.replay.loop import World, run
from control_service.replay.plan import profile_of
from control_service.replay.recorded import RecordedEngine, engine_from_steps, engine_from_trace
from control_service.replay.sources import AcceptanceSpan, SyntheticSource
from control_service.replay.step_times import NoiseTerms
from control_service.replay.streams import seeds_of
from control_service.store.step_trace import StepTrace, TracedStep
from tests.unit.replay.builders import CANDIDATES, cell, world
from tests.unit.replay.test_loop import Recorder

RATES = (0.8, 0.6, 0.5)
NOISE = NoiseTerms(lognormal_sigma=0.05, outlier_share=0.02)


def recorded_world() -> World:
    """Two spells of acceptance, a dozen batch sizes in turn."""
    spans = (AcceptanceSpan(RATES, 60.0), AcceptanceSpan((0.3,), 60.0))
    phases = [(concurrency, 10.0) for concurrency in (1, 4, 16, 2, 8, 32, 1, 4, 16, 2, 8, 32)]
    return world(SyntheticSource(spans), *phases, noise=NOISE)


def record_steps() -> list[StepObservation]:
    """Twenty steps of each length, in turn."""
    recorder = Recorder(itertools.cycle([length for length in CANDIDATES for _ in range(20)]))
    run(recorded_world(), recorder, seeds_of(1))
    return recorder.steps


@pytest.fixture(scope="module")
def steps() -> list[StepObservation]:
    return record_steps()


@pytest.fixture(scope="module")
def engine(steps: list[StepObservation]) -> RecordedEngine:
    return engine_from_steps("made", CANDIDATES, steps)


def test_acceptance_by_position_and_time_comes_back(engine: RecordedEngine) -> None:
    """Conditional rates, censored by the length that ran; the change in the middle is kept."""
    truth = SyntheticSource((AcceptanceSpan(RATES, 60.0), AcceptanceSpan((0.3,), 60.0)))
    for now_s in (30.0, 100.0):
        for length in CANDIDATES:
            expected = truth.mean_tokens(0, length, now_s)
            # A span holds some hundred trials.
            assert engine.source.mean_tokens(0, length, now_s) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("batch_size", [1.0, 4.0, 6.0, 32.0])
@pytest.mark.parametrize("num_steps", CANDIDATES)
def test_step_times_come_back(engine: RecordedEngine, batch_size: float, num_steps: int) -> None:
    """Of sizes that ran and one in between, through noise and outliers."""
    expected = recorded_world().times.seconds(batch_size, num_steps, 400.0 * batch_size)
    assert engine.times.seconds(batch_size, num_steps, 400.0 * batch_size) == pytest.approx(
        expected, rel=0.04
    )


def test_noise_and_requests_come_back(engine: RecordedEngine) -> None:
    """Scatter, outliers, and how large requests are."""
    assert engine.noise.lognormal_sigma == pytest.approx(NOISE.lognormal_sigma, rel=0.2)
    assert engine.noise.outlier_share == pytest.approx(NOISE.outlier_share, abs=0.01)
    assert engine.noise.outlier_factor == pytest.approx(3.0, rel=0.05)
    assert float(engine.source.output_tokens.mean()) == pytest.approx(240, rel=0.25)
    assert float(engine.source.prompt_tokens.mean()) == pytest.approx(288, rel=0.25)


def test_a_staircase_is_kept_by_the_table(steps: list[StepObservation]) -> None:
    """What is not linear, a batch size padded to twice the work, is in the table."""
    slow = [
        step._replace(duration_s=step.duration_s * (1.5 if step.batch_size == 8 else 1.0)) for step in steps
    ]
    times = engine_from_steps("made", CANDIDATES, slow).times
    for size, factor in ((4.0, 1.0), (8.0, 1.5), (16.0, 1.0)):
        expected = factor * recorded_world().times.seconds(size, 3, 400.0 * size)
        assert times.seconds(size, 3, 400.0 * size) == pytest.approx(expected, rel=0.06)


def test_first_steps_do_not_count_as_acceptance(steps: list[StepObservation]) -> None:
    """They accept almost nothing, and would make every rate look worse."""
    spoilt = [
        step._replace(
            accepted_drafts=tuple(
                0 if first else count
                for count, first in zip(step.accepted_drafts, step.first_step, strict=True)
            )
        )
        for step in steps
    ]
    before, after = (engine_from_steps("made", CANDIDATES, each).source for each in (steps, spoilt))
    assert before.spans == after.spans


def test_a_recording_that_says_too_little_is_refused(steps: list[StepObservation]) -> None:
    """Named by what is missing."""
    with pytest.raises(ReplayInputError, match="steps: 10 is not allowed; must be at least 50"):
        engine_from_steps("made", CANDIDATES, steps[:10])
    with pytest.raises(ReplayInputError, match=r"num_steps: \[0\] is not allowed; must be two lengths"):
        engine_from_steps("made", CANDIDATES, [step for step in steps if step.num_steps == 0])
    mute = [step._replace(first_step=(True,) * step.batch_size) for step in steps]
    with pytest.raises(ReplayInputError, match="accepted_drafts: no step proposed any"):
        engine_from_steps("made", CANDIDATES, mute)


def test_an_engine_is_chosen_by_name_and_its_like_epochs_count(steps: list[StepObservation]) -> None:
    """Epochs of another configuration cost otherwise."""
    first = profile_of(cell(recorded_world()), CANDIDATES)
    second, other = replace(first, epoch=2), replace(first, engine_id="other", epoch=7)
    foreign = replace(first, epoch=3, dtype="fp8", engine_id="replay2")
    half = len(steps) // 2
    traced = [TracedStep("replay", 1 if place < half else 2, step) for place, step in enumerate(steps)]
    trace = StepTrace((first, second, other, foreign), tuple(reversed(traced)), 0)
    found = engine_from_trace("made.jsonl", trace, "replay")
    assert found.source.spans == engine_from_steps("replay", CANDIDATES, steps).source.spans
    with pytest.raises(ReplayInputError, match=r"--engine: None .*'other', 'replay', 'replay2'"):
        engine_from_trace("made.jsonl", trace, None)
    changed = replace(first, epoch=2, dtype="fp8")
    only_old = StepTrace((first, changed), tuple(TracedStep("replay", 1, step) for step in steps), 0)
    with pytest.raises(ReplayInputError, match="steps: 0"):
        engine_from_trace("made.jsonl", only_old, None)
