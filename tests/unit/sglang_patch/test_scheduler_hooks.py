"""What a step's record says of its requests, taken once SGLang has processed the result."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

from sglang_patch.config import EngineConfig
from sglang_patch.control import StepControl
from sglang_patch.hooks import scheduler
from sglang_patch.hooks.attach import carry
from sglang_patch.recorder import StepRecord

LENGTHS = (0, 1, 3)


class Engine:
    """A scheduler as far as the hooks know it; the requests of a step are given with it."""

    def __init__(self) -> None:
        config = EngineConfig.from_env({"TURBOSPEC_CONTROL_ADDRESS": "unix:/nowhere.sock"})
        assert config is not None
        self.control = StepControl(config, LENGTHS, LENGTHS[-1], 16)
        self.scheduler = SimpleNamespace(
            waiting_queue=[], running_batch=SimpleNamespace(reqs=[], seq_lens_cpu=None), _sched_idled=False
        )
        carry(self.scheduler, self.control)

    def launch(self, num_steps: int, accepted: dict[Any, int]) -> tuple[Any, Any]:
        batch = SimpleNamespace(
            reqs=list(accepted),
            seq_lens_cpu=None,
            forward_mode=SimpleNamespace(is_decode=lambda: True),
        )
        result = SimpleNamespace(
            speculative_num_draft_tokens=num_steps + 1, num_correct_drafts_per_req_cpu=list(accepted.values())
        )
        return batch, scheduler.run_batch(lambda *_: result, self.scheduler, batch)

    def process(self, batch: Any, result: Any) -> StepRecord:
        def count(_scheduler: Any, batch: Any, _result: Any) -> None:
            for request in batch.reqs:
                request.spec_verify_ct += not request.finished
            # A request that is over is let go.
            batch.reqs = [request for request in batch.reqs if not request.finished]

        scheduler.process_batch_result(count, self.scheduler, batch, result)
        record: StepRecord = result._turbospec_record
        return record

    def step(self, num_steps: int, accepted: dict[Any, int]) -> tuple[list[bool], list[bool]]:
        record = self.process(*self.launch(num_steps, accepted))
        assert record.num_steps == num_steps
        return list(record.first_step), list(record.after_full_accept)


class Request:
    """Compares by identity, as SGLang's does."""

    def __init__(self) -> None:
        self.spec_verify_ct = 0
        self.finished = False


def test_a_request_has_one_first_step() -> None:
    engine, old, new = Engine(), Request(), Request()
    assert engine.step(3, {old: 0})[0] == [True]
    assert engine.step(3, {old: 0, new: 0})[0] == [False, True]
    assert engine.step(3, {old: 0, new: 0})[0] == [False, False]


def test_a_first_step_of_length_0_is_one_too() -> None:
    engine, request = Engine(), Request()
    assert [engine.step(0, {request: 0})[0] for _ in range(2)] == [[True], [False]]


def test_the_step_after_all_drafts_were_accepted_is_marked() -> None:
    engine, one, other = Engine(), Request(), Request()
    assert engine.step(3, {one: 3, other: 2})[1] == [False, False]
    assert engine.step(3, {one: 0, other: 3})[1] == [True, False]
    # Nothing is drafted: the newest step that drafted remains what it was.
    assert engine.step(0, {one: 0, other: 0})[1] == [False, True]
    assert engine.step(1, {one: 1, other: 0})[1] == [False, True]
    assert engine.step(1, {one: 0, other: 0})[1] == [True, False]


def test_the_step_that_overlap_scheduling_ran_for_a_finished_request_is_not_its_first() -> None:
    engine, request = Engine(), Request()
    first, second = engine.launch(3, {request: 3}), engine.launch(3, {request: 0})
    assert engine.process(*first).first_step == [True]
    request.finished = True
    assert engine.process(*second).first_step == [False]
    assert engine.control.failed is False


def test_nor_is_it_if_another_request_joined_for_that_step() -> None:
    engine, request, new = Engine(), Request(), Request()
    first, second = engine.launch(3, {request: 3}), engine.launch(3, {request: 0, new: 0})
    engine.process(*first)
    request.finished = True
    assert engine.process(*second).first_step == [False, True]


def test_a_request_that_was_served_before_control_came_has_no_first_step() -> None:
    engine, request = Engine(), Request()
    request.spec_verify_ct = 5
    assert engine.step(3, {request: 0})[0] == [False]


def test_a_request_keeps_its_history_where_others_come_and_go() -> None:
    engine, one, other, new = Engine(), Request(), Request(), Request()
    engine.step(3, {one: 3, other: 0})
    assert engine.step(0, {new: 0, one: 0}) == ([True, False], [False, True]), "merged before it"
    assert engine.step(3, {one: 2}) == ([False], [True]), "alone"
    assert engine.step(3, {one: 0}) == ([False], [False])


def test_a_request_that_waited_for_a_batch_again_has_no_second_first_step() -> None:
    engine, retracted, other = Engine(), Request(), Request()
    engine.step(3, {retracted: 3, other: 0})
    engine.step(3, {other: 0})
    assert engine.step(3, {other: 0, retracted: 0}) == ([False, False], [False, False])


def test_records_do_not_change_with_what_comes_later() -> None:
    engine, request = Engine(), Request()
    first, second = (
        engine.process(*engine.launch(3, {request: 3})),
        engine.process(*engine.launch(3, {request: 0})),
    )
    engine.step(3, {request: 3})
    assert (first.first_step, first.after_full_accept) == ([True], [False])
    assert (second.first_step, second.after_full_accept) == ([False], [True])


def test_an_idle_engine_keeps_no_request_alive() -> None:
    engine, request = Engine(), Request()
    engine.step(3, {request: 3})
    kept = weakref.ref(request)
    del request
    scheduler.on_idle(None, engine.scheduler)
    gc.collect()
    assert kept() is None
