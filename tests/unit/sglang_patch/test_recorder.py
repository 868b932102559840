"""A record carries the length and the time of its very step, in whichever order they become known."""

import pytest

from sglang_patch.decision import LEASE, Decision
from sglang_patch.recorder import HAND_OVER_NS, HAND_OVER_STEPS, StepRecord, StepRecorder


def record(step: int, start_ns: int) -> StepRecord:
    return StepRecord(step, 2, 100, 0, Decision(3, LEASE), start_ns)


def test_synchronous_scheduling_times_a_step_to_the_next_launch() -> None:
    done: list[StepRecord] = []
    recorder = StepRecorder(done.append)
    first, second = record(1, 1_000), record(2, 2_000)
    recorder.launch(first)
    recorder.processed(first, 3, [1, 0], 1_800)
    assert done == [], "not over before the next launch"
    recorder.end(2_000, idled=False)
    recorder.launch(second)
    recorder.hand_over()
    assert done == [first]
    assert (first.start_ns, first.end_ns, first.num_steps, first.previous_num_steps) == (1_000, 2_000, 3, -1)
    recorder.processed(second, 5, [1, 0], 2_800)
    assert (second.num_steps, second.previous_num_steps) == (5, 3)


def test_an_idle_engine_does_not_lengthen_its_last_step() -> None:
    done: list[StepRecord] = []
    recorder = StepRecorder(done.append)
    last = record(1, 1_000)
    recorder.launch(last)
    recorder.processed(last, 3, [1, 0], 1_800)
    recorder.end(999_000, idled=True)
    assert done == [last]
    assert last.end_ns == 1_800


def test_overlap_scheduling_credits_a_late_result_to_its_own_step() -> None:
    done: list[StepRecord] = []
    recorder = StepRecorder(done.append)
    first, second = record(1, 1_000), record(2, 2_000)
    recorder.launch(first)
    recorder.end(2_000, idled=False)
    recorder.launch(second)
    recorder.processed(first, 3, [3, 2], 2_500)
    recorder.hand_over()
    assert done == [first]
    assert (first.num_steps, first.accepted_drafts, first.end_ns) == (3, [3, 2], 2_000)


def run(recorder: StepRecorder, steps: int, duration_ns: int) -> None:
    for step in range(1, steps + 1):
        recorder.end(step * duration_ns, idled=False)
        newest = record(step, step * duration_ns)
        recorder.launch(newest)
        recorder.processed(newest, 3, [1, 0], step * duration_ns + 1)


def test_fast_steps_are_handed_over_together_and_in_order() -> None:
    done: list[StepRecord] = []
    run(StepRecorder(done.append), HAND_OVER_STEPS, 1_000)
    assert done == [], "the last one is still running"
    recorder = StepRecorder(done.append)
    run(recorder, 2 * HAND_OVER_STEPS + 2, 1_000)
    assert [one.step_index for one in done] == list(range(1, 2 * HAND_OVER_STEPS + 1))
    recorder.end(999_000, idled=True)
    assert len(done) == 2 * HAND_OVER_STEPS + 2, "an engine that idles keeps none back"


def test_the_record_of_a_slow_step_waits_for_one_more_at_most() -> None:
    done: list[StepRecord] = []
    run(StepRecorder(done.append), 3, HAND_OVER_NS)
    assert [one.step_index for one in done] == [1, 2]


def test_a_result_that_comes_after_the_engine_went_idle_is_handed_over_at_once() -> None:
    done: list[StepRecord] = []
    recorder = StepRecorder(done.append)
    last = record(1, 1_000)
    recorder.launch(last)
    recorder.end(2_000, idled=True)
    assert done == []
    recorder.processed(last, 3, [1, 0], 2_500)
    assert done == [last]


def test_a_record_that_is_refused_does_not_come_again() -> None:
    seen: list[int] = []

    def sink(record: StepRecord) -> None:
        seen.append(record.step_index)
        if record.step_index == 2:
            raise ValueError("refused")

    recorder = StepRecorder(sink)
    with pytest.raises(ValueError, match="refused"):
        run(recorder, HAND_OVER_STEPS + 1, 1_000)
    recorder.hand_over()
    assert seen == [1, 2]
