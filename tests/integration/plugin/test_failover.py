"""Two real services, one engine: control and step records go to the one that holds the stream."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.control_process import ControlProcess
from tests.support.scripted_service import ScriptedService
from tests.support.stepped_engine import SteppedEngine
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names
from turbospec.v1.admin_pb2 import EngineStatus, ListEnginesRequest
from turbospec.v1.admin_pb2_grpc import SpeculationAdminServiceStub


@pytest.fixture
def services(tmp_path: Path) -> Iterator[list[ControlProcess]]:
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(ControlProcess(tmp_path / name))
        made[-1].start()
    yield made
    for process in made:
        process.stop()


def engines(service: ControlProcess) -> list[EngineStatus]:
    with grpc.insecure_channel(service.address) as channel:
        return list(SpeculationAdminServiceStub(channel).ListEngines(ListEnginesRequest()).engines)


def test_control_and_records_move_to_the_other_replica(services: list[ControlProcess]) -> None:
    engine = SteppedEngine(",".join(service.address for service in services))
    engine.start()
    try:
        assert eventually(lambda: engine.connected, 30)
        engine.run_until(names.SOURCE_LEASE)
        holder, other = sorted(services, key=lambda service: -len(engines(service)))
        assert (len(engines(holder)), len(engines(other))) == (1, 0), "one replica has the engine"
        for _ in range(100):
            engine.step()
        assert eventually(lambda: engines(holder)[0].steps_total >= 100)
        assert not engines(holder)[0].drops_by_cause
        holder.kill()
        assert eventually(lambda: not engine.connected)
        assert eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE)
        last = [engine.step() for _ in range(100)][-1]
        engine.control.idle()
        assert eventually(lambda: bool(engines(other)) and engines(other)[0].step_index == last.step_index)
        seen = engines(other)[0]
        assert seen.steps_total >= 100
        assert not seen.drops_by_cause, "nothing was sent to a replica that does not know the engine"
        assert sum(seen.fallbacks_by_reason.values()) >= 1, "steps without control are told of afterwards"
    finally:
        engine.control.close()


def test_an_address_without_a_service_is_passed_over(tmp_path: Path) -> None:
    service = ScriptedService(lambda step: 1)
    listed = f"unix:{tmp_path}/nobody.sock,{service.start_tcp()},dns:///localhost:1"
    engine = SteppedEngine(listed)
    try:
        engine.start()
        assert eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE, 30)
        assert eventually(lambda: len(service.spans()) > 0)
    finally:
        engine.control.close()
        service.stop()
