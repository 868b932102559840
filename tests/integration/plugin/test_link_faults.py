"""The link under faults of the peer: what the engine does, what state is shown, how it gets out again."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_patch.breaker import OPENS_AT_MISSES
from sglang_patch.decision import BREAKER, DEADLINE, FALLBACK, LEASE
from sglang_patch.recorder import StepRecord
from tests.support.control_process import ControlProcess
from tests.support.scripted_service import ScriptedService
from tests.support.stepped_engine import SteppedEngine
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names
from turbospec.v1.control_pb2 import DecideResponse, Tier

# Below every time limit that the network is given, far above what it takes to start a thread.
AT_ONCE_S = 0.9


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ControlProcess]:
    process = ControlProcess(tmp_path)
    process.start()
    yield process
    os.kill(pid_of(process), signal.SIGCONT)
    process.stop()


def pid_of(process: ControlProcess) -> int:
    assert process._process is not None
    return process._process.pid


def started(address: str, **env: str) -> SteppedEngine:
    engine = SteppedEngine(address, **{"TURBOSPEC_STEP_DEADLINE_US": "2000", **env})
    engine.start()
    return engine


def state(engine: SteppedEngine) -> str:
    return engine.control.board.link_state_name


def stepping_until(engine: SteppedEngine, wanted: str, timeout_s: float = 15.0) -> bool:
    return eventually(lambda: (engine.step(), state(engine) == wanted)[1], timeout_s)


def test_a_stopped_service_is_noticed_given_up_and_found_again(service: ControlProcess) -> None:
    engine = started(service.address)
    try:
        assert stepping_until(engine, names.LINK_FRESH, 30)
        os.kill(pid_of(service), signal.SIGSTOP)
        steps: list[StepRecord] = []
        assert eventually(lambda: (steps.append(engine.step()), state(engine) == names.LINK_OPEN)[1])
        # An answer that was on its way when the service stopped may still come, and earns one more deadline.
        missed = [
            list(run)
            for source, run in itertools.groupby(steps, lambda step: step.decision.source)
            if source != LEASE
        ]
        assert 1 <= len(missed) <= 3
        for run in missed:
            assert sum(step.decision.wait_ns > 0 for step in run) <= 1, "one deadline, then nothing"
        assert stepping_until(engine, names.LINK_CONNECTING), "the silent stream is given up"
        at_once(service.address)
        os.kill(pid_of(service), signal.SIGCONT)
        assert stepping_until(engine, names.LINK_FRESH)
        assert eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE)
    finally:
        engine.control.close()


def test_an_idle_engine_keeps_its_stream_and_its_lease(service: ControlProcess, tmp_path: Path) -> None:
    engine = started(service.address)
    try:
        assert stepping_until(engine, names.LINK_FRESH, 30)
        engine.control.idle()
        # Longer than a lease holds, and than it takes to give up a silent stream.
        until_s = time.monotonic() + 4
        while time.monotonic() < until_s:
            assert state(engine) == names.LINK_FRESH
            time.sleep(0.02)
        record = engine.step()
        assert names.SOURCES[record.decision.source] == names.SOURCE_LEASE
        assert record.decision.wait_ns == 0
        assert (tmp_path / "control.log").read_text().count("engine_connected") == 1
        # And if the service dies meanwhile, the first step afterwards does not wait to find out.
        engine.control.idle()
        os.kill(pid_of(service), signal.SIGSTOP)
        assert eventually(lambda: state(engine) == names.LINK_STALE), "noticed though no step has asked"
        record = engine.step()
        assert (record.decision.source, record.num_steps, record.decision.wait_ns) == (FALLBACK, 0, 0)
    finally:
        engine.control.close()


def at_once(address: str) -> None:
    """Start, a step and the end of an engine take no time, and its agent ends by itself."""
    engine = SteppedEngine(address, TURBOSPEC_STEP_DEADLINE_US="2000")
    for call in (engine.start, engine.step, engine.control.close):
        begun_s = time.monotonic()
        call()
        assert time.monotonic() - begun_s < AT_ONCE_S, call
    agent = engine.control._agent
    assert agent is not None
    assert eventually(lambda: not agent._thread.is_alive())


def test_nothing_waits_for_a_service_that_is_absent(tmp_path: Path) -> None:
    at_once(f"unix:{tmp_path}/nobody.sock")


class EveryOther(ScriptedService):
    """Strict control of every step, but nothing for every other step while it is ill."""

    ill = False

    def Decide(self, request_iterator: Any, context: Any) -> Iterator[DecideResponse]:
        for answer in super().Decide(request_iterator, context):
            if not (self.ill and answer.step_index % 2):
                yield answer


def test_the_breaker_ends_flapping_and_closes_by_itself(tmp_path: Path) -> None:
    service = EveryOther(lambda step: 3, valid_for_steps=1)
    engine = started(service.start(tmp_path / "ill.sock"), TURBOSPEC_STEP_DEADLINE_US="5000")
    try:
        assert stepping_until(engine, names.LINK_FRESH, 30)
        service.ill = True
        ill = []
        assert eventually(lambda: (ill.append(engine.step()), state(engine) == names.LINK_OPEN)[1])
        waited = sum(record.decision.reason == DEADLINE for record in ill)
        assert waited <= OPENS_AT_MISSES, "patience alone would go on for ever"
        # It did flap, if less than at every step where the machine is busy.
        lengths = [record.num_steps for record in ill]
        assert sum(a != b for a, b in itertools.pairwise(lengths)) > OPENS_AT_MISSES // 4
        shut = [engine.step() for _ in range(300)]
        assert {(r.num_steps, r.decision.reason, r.decision.wait_ns) for r in shut} == {(0, BREAKER, 0)}
        # Well again, with leases that a busy machine can keep up with at a thousand steps a second.
        service.ill, service.valid_for_steps = False, 16
        assert stepping_until(engine, names.LINK_FRESH)
        assert eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE)
        assert eventually(
            lambda: (
                {span[names.LINK_STATE] for span in service.spans()} >= {names.LINK_FRESH, names.LINK_OPEN}
            )
        )
    finally:
        engine.control.close()
        service.stop()


class Flooding(ScriptedService):
    """Answers the first ask with good leases without end."""

    sent = 0

    def Decide(self, request_iterator: Any, context: Any) -> Iterator[DecideResponse]:
        for answer in super().Decide(request_iterator, context):
            while context.is_active():
                self.sent += 1
                answer.decision_id += 1
                yield answer


class Giant(ScriptedService):
    """Every answer is larger than an engine takes."""

    def Decide(self, request_iterator: Any, context: Any) -> Iterator[DecideResponse]:
        for answer in super().Decide(request_iterator, context):
            answer.tiers.extend(Tier(max_batch_size=size) for size in range(1 << 16))
            yield answer


def of_agent(engine: SteppedEngine) -> Path:
    """What the kernel knows of the agent process."""
    assert engine.control._agent is not None
    assert engine.control._agent._process is not None
    return Path(f"/proc/{engine.control._agent._process.pid}")


def agent_bytes(engine: SteppedEngine) -> int:
    return int((of_agent(engine) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def agent_threads(engine: SteppedEngine) -> int:
    return len(list((of_agent(engine) / "task").iterdir()))


@pytest.mark.parametrize("kind", [Flooding, Giant])
def test_memory_stays_bounded_whatever_the_peer_sends(kind: type[ScriptedService], tmp_path: Path) -> None:
    service = kind(lambda step: 3)
    engine = started(service.start(tmp_path / "hostile.sock"))
    try:
        assert eventually(lambda: (engine.step(), len(service.profiles) > 1)[1], 30), "the stream is ended"
        before = agent_bytes(engine)
        assert eventually(lambda: (engine.step(), len(service.profiles) > 4)[1], 30)
        assert agent_bytes(engine) - before < 16 << 20
        if kind is Flooding:
            assert engine.control.board.refusals()["flood"] >= 4
    finally:
        engine.control.close()
        service.stop()


class CrashLoop(ScriptedService):
    """Answers once, then ends the stream."""

    def Decide(self, request_iterator: Any, context: Any) -> Iterator[DecideResponse]:
        yield from itertools.islice(super().Decide(request_iterator, context), 1)


def test_a_service_that_answers_once_and_ends_is_not_called_ever_faster(tmp_path: Path) -> None:
    service = CrashLoop(lambda step: 3)
    engine = started(service.start(tmp_path / "loop.sock"))
    try:
        assert eventually(lambda: (engine.step(), len(service.profiles) > 2)[1], 30)
        threads = agent_threads(engine)
        begun, begun_s = len(service.profiles), time.monotonic()
        while time.monotonic() < begun_s + 4:
            engine.step()
        # The pauses grow to half a second on average; without that there would be forty a second.
        assert 2 < len(service.profiles) - begun < 40
        assert agent_threads(engine) <= threads + 4, "a stream that has ended leaves none behind"
    finally:
        engine.control.close()
        service.stop()


def test_switches_turn_an_engine_at_run_time_without_a_service(tmp_path: Path) -> None:
    service = ScriptedService(lambda step: 3)
    engine = started(
        service.start(tmp_path / "control.sock"),
        TURBOSPEC_MODE_FILE=str(tmp_path / "mode"),
        TURBOSPEC_KILL_FILE=str(tmp_path / "kill"),
    )

    def runs(source: str, length: int) -> bool:
        record = engine.step()
        return (names.SOURCES[record.decision.source], record.num_steps) == (source, length)

    try:
        assert eventually(lambda: runs(names.SOURCE_LEASE, 3), 30)
        (tmp_path / "mode").write_text("off")
        assert eventually(lambda: runs(names.SOURCE_LAUNCH_LENGTH, 5))
        assert stepping_until(engine, names.LINK_DISABLED)
        (tmp_path / "mode").write_text("enforce")
        assert eventually(lambda: runs(names.SOURCE_LEASE, 3))
        (tmp_path / "kill").touch()
        assert eventually(lambda: runs(names.SOURCE_KILL_SWITCH, 0))
        assert stepping_until(engine, names.LINK_DISABLED)
        (tmp_path / "kill").unlink()
        assert eventually(lambda: runs(names.SOURCE_LEASE, 3))
        assert stepping_until(engine, names.LINK_FRESH)
        assert len(service.profiles) == 1, "the stream was kept all along"
        assert eventually(lambda: names.LINK_DISABLED in {span[names.LINK_STATE] for span in service.spans()})
    finally:
        engine.control.close()
        service.stop()
