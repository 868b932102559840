"""Arms inside one scheduler: whose a step is, and what is counted of it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.arms import OURS, ArmPlan, Arms, Switch
from benchmarks.results import Slice
from sglang_patch.decision import LEASE, Decision
from sglang_patch.recorder import StepRecord, StepRecorder

SLICE_STEPS = 3
LENGTHS = {OURS: 2, "fixed:1": 1, "fixed:3": 3}


class Control:
    """What the arms do to a StepControl."""

    def __init__(self) -> None:
        self.silent = False
        self.num_steps = 0
        self.records: list[StepRecord] = []
        self.recorder = StepRecorder(self.records.append)


class Engine:
    """A scheduler with one request, of which every step commits as many tokens as its length and one.

    overlaps: it launches a step before it looks at what came of the last one.
    """

    def __init__(
        self, tmp_path: Path, variants: tuple[str, ...] = tuple(LENGTHS), *, overlaps: bool = False
    ) -> None:
        self.plan = ArmPlan(
            variants=variants,
            slice_steps=SLICE_STEPS,
            seed=0,
            start=4,
            switch=tmp_path / "switch",
            logs=tmp_path,
            service=f"nobody-{os.getpid()}",
        )
        self.switch = Switch(self.plan.switch)
        self.control = Control() if OURS in variants else None
        self.arms = Arms(self.plan, lambda scheduler: scheduler.control)
        self.request = SimpleNamespace(rid="r", output_ids=[], finished_len=None)
        self.overlaps = overlaps
        self.lengths: list[tuple[bool, int]] = []
        self._pending: list[Callable[[], None]] = []

    def step(self, *, decodes: bool = True) -> None:
        batch: Any = SimpleNamespace(
            forward_mode=SimpleNamespace(is_decode=lambda: decodes), reqs=[self.request]
        )

        def launch(_original: Any, _scheduler: Any, _batch: Any) -> Any:
            if self.control is None or not decodes:
                return SimpleNamespace(speculative_num_draft_tokens=None)
            # Ours would choose 2.
            num_steps = self.control.num_steps if self.control.silent else LENGTHS[OURS]
            self.lengths.append((self.control.silent, num_steps))
            record = None
            if not self.control.silent:
                now_ns = time.monotonic_ns()
                self.control.recorder.end(now_ns, idled=False)
                record = StepRecord(len(self.lengths), 1, 0, 0, Decision(num_steps, LEASE), now_ns)
                self.control.recorder.launch(record)
            return SimpleNamespace(speculative_num_draft_tokens=num_steps + 1, record=record)

        def take(_original: Any, _scheduler: Any, _batch: Any, result: Any) -> None:
            self.request.output_ids += [0] * (result.speculative_num_draft_tokens or 1)
            if self.control is not None and decodes and result.record is not None:
                num_steps = result.speculative_num_draft_tokens - 1
                self.control.recorder.processed(result.record, num_steps, [num_steps], time.monotonic_ns())

        result = self.arms.run_batch(launch, launch, self, batch)
        self._pending.append(lambda: self.arms.process_batch_result(take, take, self, batch, result))
        while len(self._pending) > self.overlaps:
            self._pending.pop(0)()

    def slices(self, cell: int = 1) -> list[Slice]:
        return self.plan.read(cell)


def test_all_steps_are_ours_and_none_is_counted_until_a_cell_is_measured(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    for _ in range(20):
        engine.step()
    assert engine.lengths == [(False, 2)] * 20
    assert list(tmp_path.glob("*.jsonl")) == []


@pytest.mark.parametrize("overlaps", [False, True])
def test_every_variant_has_one_slice_in_a_sweep_and_its_first_step_does_not_count(
    tmp_path: Path, *, overlaps: bool
) -> None:
    engine = Engine(tmp_path, overlaps=overlaps)
    engine.switch.cell = 7
    for _ in range(3 * 5 * (SLICE_STEPS + 1) + 1):
        engine.step()
    slices = engine.slices(7)
    # The newest two are not logged yet: one goes on, the last result of the other may be to come.
    assert len(slices) == 14
    assert {(one.server, one.start) for one in slices} == {(OURS, 4)}
    for sweep in range(1, 5):
        mine = [one for one in slices if one.sweep == sweep]
        assert sorted(one.variant for one in mine) == sorted(LENGTHS)
        for one in mine:
            assert [step.num_steps for step in one.steps] == [LENGTHS[one.variant]] * SLICE_STEPS
            assert all(step.tokens == {0: step.num_steps + 1} for step in one.steps)
            assert all(step.seconds > 0.0 for step in one.steps)


def test_a_fixed_arm_is_known_to_the_benchmark_and_ends_the_open_step_of_ours(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    assert engine.control is not None
    engine.switch.cell = 1
    for _ in range(60):
        engine.step()
        assert engine.switch.fixed == engine.control.silent
        assert not engine.control.silent or engine.control.recorder.running is None
    records = engine.control.records
    assert len(records) > SLICE_STEPS
    # A step lasts until the next launch, and what ran before it is what really ran.
    assert all(record.end_ns > record.processed_ns for record in records)
    ran = [-1, *(length for _, length in engine.lengths)]
    assert [record.previous_num_steps for record in records] == [ran[one.step_index - 1] for one in records]


def test_a_server_of_one_variant_has_no_step_that_settles(tmp_path: Path) -> None:
    engine = Engine(tmp_path, ("nospec",), overlaps=True)
    engine.switch.cell = 1
    for _ in range(3 * SLICE_STEPS):
        engine.step()
    (one,) = engine.slices()
    assert [(step.num_steps, step.tokens) for step in one.steps] == [(0, {0: 1.0})] * SLICE_STEPS
    assert not engine.switch.fixed


def test_prefills_and_what_comes_after_a_cell_do_not_count(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    assert engine.control is not None
    engine.switch.cell = 1
    for _ in range(2 * (SLICE_STEPS + 1)):
        engine.step()
        engine.step(decodes=False)
        engine.arms.end_step()
    engine.step()
    assert [len(one.steps) for one in engine.slices()] == [SLICE_STEPS]
    engine.switch.cell = 0
    for _ in range(10):
        engine.step()
    # One was complete by then; that into which the end cut is dropped.
    assert len(engine.slices()) == 2
    assert engine.lengths[-1] == (False, 2)


def test_tokens_beyond_the_end_of_an_answer_do_not_count(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.switch.cell = 1
    engine.request.finished_len = 0
    for _ in range(2 * (SLICE_STEPS + 1) + 1):
        engine.step()
    assert [step.tokens for one in engine.slices() for step in one.steps] == [{0: 0.0}] * SLICE_STEPS


def test_an_arm_that_is_out_has_no_turn_from_the_next_sweep_on(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.switch.cell = 1
    for _ in range(3 * (SLICE_STEPS + 1)):
        engine.step()
    engine.switch.out = engine.plan.bits(["fixed:1", "fixed:9"])
    for _ in range(4 * (SLICE_STEPS + 1) + 2):
        engine.step()
    by_sweep = {
        sweep: {one.variant for one in engine.slices() if one.sweep == sweep} for sweep in range(1, 4)
    }
    assert by_sweep == {1: set(LENGTHS), 2: {OURS, "fixed:3"}, 3: by_sweep[3]}
    assert "fixed:1" not in by_sweep[3]
