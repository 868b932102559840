"""A record carries the length and the time of its very step, in whichever order they become known."""

from sglang_patch.mailbox import Decision
from sglang_patch.recorder import StepRecord, StepRecorder
from turbospec.v1.telemetry import SOURCE_LEASE


def record(step: int, start_ns: int) -> StepRecord:
    return StepRecord(step, 2, 100, 0, Decision(3, SOURCE_LEASE), start_ns)


def test_synchronous_scheduling_times_a_step_to_the_next_launch() -> None:
    recorder = StepRecorder(16)
    first, second = record(1, 1_000), record(2, 2_000)
    recorder.launch(first)
    recorder.launched(first, 3)
    recorder.processed(first, [1, 0], 1_800)
    assert recorder.take(9) == [], "not over before the next launch"
    recorder.end(2_000, idled=False)
    recorder.launch(second)
    (done,) = recorder.take(9)
    assert (done.start_ns, done.end_ns, done.num_steps, done.previous_num_steps) == (1_000, 2_000, 3, -1)
    recorder.launched(second, 5)
    assert second.previous_num_steps == 3


def test_an_idle_engine_does_not_lengthen_its_last_step() -> None:
    recorder = StepRecorder(16)
    last = record(1, 1_000)
    recorder.launch(last)
    recorder.launched(last, 3)
    recorder.processed(last, [1, 0], 1_800)
    recorder.end(999_000, idled=True)
    (done,) = recorder.take(9)
    assert done.end_ns == 1_800


def test_overlap_scheduling_credits_a_late_result_to_its_own_step() -> None:
    recorder = StepRecorder(16)
    first, second = record(1, 1_000), record(2, 2_000)
    recorder.launch(first)
    recorder.launched(first, 3)
    recorder.end(2_000, idled=False)
    recorder.launch(second)
    recorder.launched(second, 0)
    recorder.processed(first, [3, 2], 2_500)
    (done,) = recorder.take(9)
    assert (done.step_index, done.num_steps, done.accepted_drafts, done.end_ns) == (1, 3, [3, 2], 2_000)


def test_a_full_ring_drops_the_oldest_and_counts() -> None:
    recorder = StepRecorder(2)
    for step in range(1, 6):
        entry = record(step, step)
        recorder.launch(entry)
        recorder.launched(entry, 1)
        recorder.processed(entry, [0, 0], step)
        recorder.end(step + 1, idled=False)
    assert recorder.dropped == 3
    assert [entry.step_index for entry in recorder.take(9)] == [4, 5]
    assert recorder.take(9) == []
