"""Engine side and control service, both real and each in its own process, over one Unix socket."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.control_process import ControlProcess
from tests.support.stepped_engine import CANDIDATES, SteppedEngine
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names
from turbospec.v1.admin_pb2 import EngineStatus, ListEnginesRequest, SetModeRequest, SetPolicyRequest
from turbospec.v1.admin_pb2_grpc import SpeculationAdminServiceStub
from turbospec.v1.control_pb2 import MODE_CANARY, MODE_ENFORCE, MODE_OFF, MODE_SHADOW

LAUNCH = CANDIDATES[-1]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ControlProcess]:
    process = ControlProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def admin(service: ControlProcess) -> Iterator[SpeculationAdminServiceStub]:
    with grpc.insecure_channel(service.address) as channel:
        yield SpeculationAdminServiceStub(channel)


@pytest.fixture
def engine(service: ControlProcess) -> Iterator[SteppedEngine]:
    made = SteppedEngine(service.address)
    made.start()
    assert eventually(lambda: made.connected, 30)
    made.run_until(names.SOURCE_LEASE)
    yield made
    made.control.close()


def status(admin: SpeculationAdminServiceStub) -> EngineStatus:
    (engine,) = admin.ListEngines(ListEnginesRequest()).engines
    return engine


def test_the_service_counts_every_step_the_engine_ran(
    engine: SteppedEngine, admin: SpeculationAdminServiceStub
) -> None:
    before = engine.step().step_index
    accepted = [sum(engine.step().accepted_drafts) for _ in range(200)]
    engine.control.idle()
    assert eventually(lambda: status(admin).steps_total == before + 200)
    seen = status(admin)
    assert sum(seen.steps_by_source.values()) == sum(seen.steps_by_num_steps.values()) == before + 200
    assert seen.accepted_tokens_total >= sum(accepted)
    assert not seen.drops_by_cause


def test_a_static_policy_is_obeyed(engine: SteppedEngine, admin: SpeculationAdminServiceStub) -> None:
    for length in (3, 0, 1):
        request = SetPolicyRequest(engine_id="test", policy="static", parameters={"num_steps": str(length)})
        admin.SetPolicy(request)
        assert eventually(lambda wanted=length: engine.step().num_steps == wanted)  # type: ignore[misc]
        records = [engine.step() for _ in range(50)]
        assert {record.num_steps for record in records} == {length}
        assert {names.SOURCES[record.decision.source] for record in records} == {names.SOURCE_LEASE}


def test_a_change_of_mind_does_not_wait_for_the_lease_to_run_out(
    engine: SteppedEngine, admin: SpeculationAdminServiceStub
) -> None:
    def told() -> int:
        lease = engine.control.board.lease(2)
        return -1 if lease is None else lease[-1]

    for length in (3, 0, 1):
        request = SetPolicyRequest(engine_id="test", policy="static", parameters={"num_steps": str(length)})
        admin.SetPolicy(request)
        assert eventually(lambda wanted=length: told() == wanted), "no step is taken, so none asks"  # type: ignore[misc]


def test_steady_control_asks_once_a_lease_and_at_once_for_another_batch(
    engine: SteppedEngine, admin: SpeculationAdminServiceStub
) -> None:
    admin.SetPolicy(SetPolicyRequest(engine_id="test", policy="static", parameters={"num_steps": "1"}))
    for _ in range(200):
        engine.step()
    before = status(admin).decisions_total
    records = [engine.step() for _ in range(320)]
    asked = status(admin).decisions_total - before
    assert 320 / 16 - 1 <= asked <= 320 / 4
    assert {names.SOURCES[record.decision.source] for record in records} == {names.SOURCE_LEASE}
    for batch_size in (1, 2, 1, 2):
        before = status(admin).decisions_total
        engine.step(batch_size)
        assert eventually(lambda seen=before: status(admin).decisions_total > seen)  # type: ignore[misc]


@pytest.mark.parametrize("mode", [MODE_OFF, MODE_SHADOW])
def test_off_and_shadow_run_the_launch_length(
    mode: int, engine: SteppedEngine, admin: SpeculationAdminServiceStub
) -> None:
    static = SetPolicyRequest(engine_id="test", policy="static", parameters={"num_steps": "1"})
    admin.SetPolicy(static)
    admin.SetMode(SetModeRequest(engine_id="test", mode=mode))  # type: ignore[arg-type]
    engine.run_until(names.SOURCE_LAUNCH_LENGTH)
    records = [engine.step() for _ in range(50)]
    assert {record.num_steps for record in records} == {LAUNCH}
    decided = {record.decision.shadow_num_steps for record in records}
    assert decided == ({1} if mode == MODE_SHADOW else {-1})
    admin.SetMode(SetModeRequest(engine_id="test", mode=MODE_ENFORCE))
    engine.run_until(names.SOURCE_LEASE)
    assert engine.step().num_steps == 1


def test_canary_takes_its_share(engine: SteppedEngine, admin: SpeculationAdminServiceStub) -> None:
    admin.SetPolicy(SetPolicyRequest(engine_id="test", policy="static", parameters={"num_steps": "1"}))
    admin.SetMode(SetModeRequest(engine_id="test", mode=MODE_CANARY, canary_percent=50))
    engine.run_until(names.SOURCE_LAUNCH_LENGTH, limit=2_000)
    records = [engine.step() for _ in range(128 * 30)]
    # A busy machine may lose control for some steps: they are neither the canary's nor the launch length's.
    num_steps = {
        source: [record.num_steps for record in records if names.SOURCES[record.decision.source] == source]
        for source in (names.SOURCE_LEASE, names.SOURCE_LAUNCH_LENGTH)
    }
    obeyed, held = num_steps.values()
    assert 0.25 < len(obeyed) / (len(obeyed) + len(held)) < 0.75
    assert (set(obeyed), set(held)) == ({1}, {LAUNCH})
