"""The engine side against a real gRPC peer: control, loss of control, telemetry, hostile answers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_patch.board import Board
from sglang_patch.clock import SystemClock
from sglang_patch.link import Link, Reader
from tests.support.scripted_service import ScriptedService
from tests.support.stepped_engine import CANDIDATES, SteppedEngine
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names
from turbospec.v1.control_pb2 import DecideResponse, EngineProfile, Tier


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[ScriptedService, str]]:
    scripted = ScriptedService(lambda step: CANDIDATES[step % 4])
    address = scripted.start(tmp_path / "control.sock")
    yield scripted, address
    scripted.stop()


@pytest.fixture
def engine(service: tuple[ScriptedService, str]) -> Iterator[SteppedEngine]:
    made = SteppedEngine(service[1])
    made.start()
    assert eventually(lambda: made.connected, 30)
    yield made
    made.control.close()


def test_each_step_runs_what_was_decided_for_it_or_for_the_step_before(engine: SteppedEngine) -> None:
    engine.run_until(names.SOURCE_LEASE)
    for _ in range(200):
        record = engine.step()
        assert names.SOURCES[record.decision.source] == names.SOURCE_LEASE
        allowed = {CANDIDATES[record.step_index % 4], CANDIDATES[(record.step_index - 1) % 4]}
        assert record.num_steps in allowed


def test_every_step_becomes_one_span_with_the_attributes_of_the_contract(
    engine: SteppedEngine, service: tuple[ScriptedService, str]
) -> None:
    for _ in range(50):
        engine.step()
    engine.control.idle()
    assert eventually(lambda: len(service[0].spans()) == 50)
    spans = service[0].spans()
    assert [span[names.STEP_INDEX] for span in spans] == list(range(1, 51))
    for span in spans:
        assert span["name"] == names.SPAN_DECODE_STEP
        assert span["duration_ms"] > 0
        assert span[names.BATCH_SIZE] == len(span[names.ACCEPTED_DRAFTS]) == len(span[names.FIRST_STEP]) == 2
        assert span[names.NUM_STEPS] in CANDIDATES
        assert span[names.DECISION_SOURCE] in names.SOURCES
        assert (names.FALLBACK_REASON in span) == (span[names.DECISION_SOURCE] == names.SOURCE_FALLBACK)
        assert span[names.CONTROL_US] > 0
    resource = service[0].exports[0].resource_spans[0].resource
    told = {attribute.key: attribute.value.string_value for attribute in resource.attributes}
    assert (told[names.ENGINE_ID], told[names.EPOCH]) == ("test", "11")


def test_a_dead_service_means_length_0_and_a_new_one_takes_over(
    engine: SteppedEngine, service: tuple[ScriptedService, str], tmp_path: Path
) -> None:
    engine.run_until(names.SOURCE_LEASE)
    service[0].stop()
    assert eventually(lambda: not engine.connected)
    for _ in range(20):
        record = engine.step()
        assert (record.num_steps, names.SOURCES[record.decision.source]) == (0, names.SOURCE_FALLBACK)
        assert record.decision.wait_ns == 0, "a dead service costs nothing"
    successor = ScriptedService(lambda step: 1)
    successor.start(tmp_path / "control.sock")
    try:
        assert eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE)
        assert engine.step().num_steps == 1
    finally:
        successor.stop()


def test_an_engine_that_starts_before_the_service_is_controlled_once_there_is_one(tmp_path: Path) -> None:
    engine = SteppedEngine(f"unix:{tmp_path}/late.sock")
    engine.start()
    try:
        assert names.SOURCES[engine.step().decision.source] == names.SOURCE_FALLBACK
        late = ScriptedService(lambda step: 3)
        late.start(tmp_path / "late.sock")
        try:
            assert eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE)
        finally:
            late.stop()
    finally:
        engine.control.close()


def test_a_dead_agent_means_length_0_and_a_new_one_takes_over(engine: SteppedEngine) -> None:
    engine.run_until(names.SOURCE_LEASE)
    agent = engine.control._agent
    assert agent is not None
    assert agent._process is not None
    agent._process.kill()
    assert eventually(lambda: not engine.connected)
    record = engine.step()
    assert (record.num_steps, names.SOURCES[record.decision.source]) == (0, names.SOURCE_FALLBACK)
    assert eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE, 30)


def test_the_agent_ends_with_its_scheduler(service: tuple[ScriptedService, str]) -> None:
    script = f"""
import os, time
from tests.support.stepped_engine import SteppedEngine
engine = SteppedEngine({service[1]!r})
engine.start()
while not engine.connected:
    time.sleep(0.01)
print(engine.control._agent._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    root = Path(__file__).parents[3]
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=False
    )
    agent_pid = int(child.stdout)
    assert eventually(lambda: not Path(f"/proc/{agent_pid}").exists())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: DecideResponse(epoch=a.epoch + 1),
        lambda a: DecideResponse(step_index=a.step_index + 1000),
        lambda a: DecideResponse(tiers=[Tier(max_batch_size=99, num_steps=64)]),
        lambda a: DecideResponse(canary_percent=101),
    ],
    ids=["wrong_epoch", "future_step", "unknown_length", "malformed"],
)
def test_a_lying_service_is_refused_and_never_obeyed(
    spoil: Callable[[DecideResponse], DecideResponse], tmp_path: Path
) -> None:
    class Liar(ScriptedService):
        lies = 0

        def Decide(self, request_iterator: Any, context: Any) -> Iterator[DecideResponse]:
            for answer in super().Decide(request_iterator, context):
                answer.MergeFrom(spoil(answer))
                self.lies += 1
                yield answer

    liar = Liar(lambda step: 3)
    engine = SteppedEngine(liar.start(tmp_path / "liar.sock"), TURBOSPEC_STEP_DEADLINE_US="1000")
    engine.start()
    try:
        records = []
        assert eventually(lambda: (records.append(engine.step()), liar.lies > 20)[1], 30)
        assert all(record.num_steps == 0 for record in records)
        (cause,) = engine.control.board.refusals()
        assert cause in names.LEASE_REFUSAL_CAUSES
    finally:
        engine.control.close()
        liar.stop()


def test_refusals_are_counted_by_cause() -> None:
    board = Board(16, 16)
    link = Link(
        address="unix:/nowhere.sock",
        profile=EngineProfile(epoch=11, candidate_num_steps=CANDIDATES),
        board=board,
        clock=SystemClock(),
    )
    reader = Reader(11, frozenset(CANDIDATES))
    for epoch in (10, 11, 10):
        link.accept(reader, DecideResponse(epoch=epoch))
    assert link.refused == {"wrong_epoch": 2, "duplicate": 1}


def test_without_a_collector_records_are_dropped_within_bounds(tmp_path: Path) -> None:
    engine = SteppedEngine(f"unix:{tmp_path}/nobody.sock", TURBOSPEC_RING_SIZE="64")
    for _ in range(1000):
        engine.step()
    engine.control.recorder.hand_over()
    assert engine.control.board.dropped == 1000 - 64 - 1, "one step is still running"
    assert len(engine.control.board.take(1000)) == 64
