"""What is read from the service before and after a run becomes what happened in the run."""

import pytest

from benchmarks.admin import control_delta
from turbospec.v1 import admin_pb2, control_pb2


def status(epoch: int = 1, **fields: object) -> admin_pb2.EngineStatus:
    profile = control_pb2.EngineProfile(engine_id="e", epoch=epoch)
    return admin_pb2.EngineStatus(profile=profile, mode=control_pb2.MODE_ENFORCE, policy="goodput", **fields)


def test_counters_are_subtracted_and_what_did_not_move_is_left_out() -> None:
    before = status(
        steps_total=10, switches_total=1, steps_by_num_steps={0: 4, 3: 6}, drops_by_cause={"full": 2}
    )
    after = status(
        steps_total=25,
        switches_total=4,
        steps_by_num_steps={0: 4, 3: 16, 5: 5},
        drops_by_cause={"full": 2},
        step_control_us=admin_pb2.Quantiles(count=25, p50=11, p99=40, max=90),
    )
    delta = control_delta(before, after)
    assert (delta.steps, delta.switches) == (15, 3)
    assert delta.steps_by_num_steps == {3: 10, 5: 5}
    assert delta.drops_by_cause == {}
    assert (delta.mode, delta.policy) == ("enforce", "goodput")
    assert delta.step_control_us.p99 == pytest.approx(40)


def test_an_engine_restarted_during_a_run_is_noticed() -> None:
    with pytest.raises(ValueError, match="epoch=2"):
        control_delta(status(epoch=1), status(epoch=2))
