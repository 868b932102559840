"""Arms inside one scheduler: whose a step is, what is counted of it, and what is made of the counts."""

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.arms import OURS, ArmPlan, Arms, Slice, Steps, Switch
from benchmarks.inside import InsideCell, best_fixed, evened, goodput, ratio
from benchmarks.workload import LoadKind

SLICE_STEPS = 3


class Control:
    """What the arms do to a StepControl."""

    def __init__(self) -> None:
        self.silent = False
        self.failed = False
        self.num_steps = 0
        self.idled = 0

    def idle(self) -> None:
        self.idled += 1


class Engine:
    """A scheduler with one request, of which every step commits as many tokens as its length and one."""

    def __init__(self, tmp_path: Path) -> None:
        self.plan = ArmPlan(
            lengths=(1, 3),
            slice_steps=SLICE_STEPS,
            seed=0,
            switch=tmp_path / "switch",
            log=tmp_path / "slices.jsonl",
            service=f"nobody-{os.getpid()}",
        )
        self.switch = Switch(self.plan.switch)
        self.control = Control()
        self.arms = Arms(self.plan, lambda scheduler: scheduler.control)
        self.request = SimpleNamespace(output_ids=[], finished_len=None)
        self.lengths: list[tuple[bool, int]] = []

    def step(self, *, decodes: bool = True) -> None:
        batch: Any = SimpleNamespace(
            forward_mode=SimpleNamespace(is_decode=lambda: decodes), reqs=[self.request]
        )

        def launch(_original: Any, _scheduler: Any, _batch: Any) -> Any:
            # Ours would choose 2.
            num_steps = self.control.num_steps if self.control.silent else 2
            if decodes:
                self.lengths.append((self.control.silent, num_steps))
            return SimpleNamespace(speculative_num_draft_tokens=num_steps + 1)

        def take(_original: Any, _scheduler: Any, _batch: Any, result: Any) -> None:
            self.request.output_ids += [0] * result.speculative_num_draft_tokens

        result = self.arms.run_batch(launch, launch, self, batch)
        self.arms.process_batch_result(take, take, self, batch, result)

    def slices(self) -> list[Slice]:
        text = self.plan.log.read_text() if self.plan.log.exists() else ""
        return [Slice.model_validate_json(line) for line in text.splitlines()]


def test_all_steps_are_ours_and_none_is_counted_until_a_cell_is_measured(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    for _ in range(20):
        engine.step()
    assert engine.lengths == [(False, 2)] * 20
    assert engine.slices() == []


def test_every_arm_has_one_slice_in_a_sweep_and_its_first_step_does_not_count(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.switch.cell = 7
    for _ in range(3 * 5 * (SLICE_STEPS + 1) + 1):
        engine.step()
    slices = engine.slices()
    assert len(slices) == 15
    assert {one.cell for one in slices} == {7}
    lengths = {OURS: 2, "fixed:1": 1, "fixed:3": 3}
    for sweep in range(1, 6):
        mine = [one for one in slices if one.sweep == sweep]
        assert sorted(one.arm for one in mine) == sorted(lengths)
        for one in mine:
            (steps,) = one.steps
            assert (steps.batch_size, steps.num_steps, steps.steps) == (1, lengths[one.arm], SLICE_STEPS)
            assert steps.tokens == SLICE_STEPS * (lengths[one.arm] + 1)
            assert steps.seconds > 0.0
    # A step of ours that is open as a fixed arm begins is ended; the newest slice is not logged yet.
    arms = [OURS, *(one.arm for one in slices)]
    ends = sum(before == OURS != after for before, after in itertools.pairwise(arms))
    assert engine.control.idled in (ends, ends + 1)


def test_prefills_and_what_comes_after_a_cell_do_not_count(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.switch.cell = 1
    for _ in range(SLICE_STEPS + 1):
        engine.step()
        engine.step(decodes=False)
        engine.arms.end_step()
    engine.step()
    assert [sum(steps.steps for steps in one.steps) for one in engine.slices()] == [SLICE_STEPS]
    engine.switch.cell = 0
    for _ in range(10):
        engine.step()
    assert len(engine.slices()) == 1
    assert engine.lengths[-1] == (False, 2)


def test_tokens_beyond_the_end_of_an_answer_do_not_count(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.switch.cell = 1
    engine.request.finished_len = 0
    for _ in range(SLICE_STEPS + 2):
        engine.step()
    assert [steps.tokens for one in engine.slices() for steps in one.steps] == [0]


def slice_of(arm: str, sweep: int, *steps: Steps) -> Slice:
    return Slice(cell=1, sweep=sweep, arm=arm, steps=list(steps))


def steps(num_steps: int, tokens: int, seconds: float) -> Steps:
    return Steps(batch_size=1, num_steps=num_steps, steps=10, tokens=tokens, seconds=seconds)


def test_a_ratio_is_of_all_sweeps_and_its_error_of_groups_of_them() -> None:
    slices = []
    for sweep in range(40):
        # The machine gets slower and slower: whoever shares a sweep shares that.
        seconds = 1.0 + sweep
        slices += [
            slice_of(OURS, sweep, steps(3, 99, seconds)),
            slice_of("fixed:3", sweep, steps(3, 100, seconds)),
        ]
    found = ratio(slices, OURS, "fixed:3")
    assert found is not None
    assert (found.middle, found.low, found.high) == (pytest.approx(0.99),) * 3
    assert found.count == 40
    assert ratio(slices, OURS, "fixed:1") is None
    assert ratio(slices[:2], OURS, "fixed:3") is None


def test_arms_that_ran_the_same_length_differ_by_time_alone_once_texts_are_evened_out() -> None:
    slices = [slice_of(OURS, 1, steps(3, 20, 2.0)), slice_of("fixed:3", 1, steps(3, 40, 2.0))]
    slices.append(slice_of("fixed:1", 1, steps(1, 17, 1.0)))
    cell = InsideCell(model="m", algorithm="EAGLE", load=LoadKind.KNOB, clients=1, start=0, slices=slices)
    even = {one.arm: goodput([one]) for one in evened(cell)}
    assert even == {OURS: pytest.approx(15.0), "fixed:3": pytest.approx(15.0), "fixed:1": pytest.approx(17.0)}
    assert best_fixed(slices) == "fixed:3"
    assert best_fixed(evened(cell)) == "fixed:1"
    assert best_fixed([]) is None
