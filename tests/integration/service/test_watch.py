"""Watching a live service: every step arrives once, in order; a slow watcher loses its own steps only."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from control_service.cli.errors import ExitCode
from control_service.server import watch
from control_service.server.app import ControlService
from control_service.store.step_trace import read_step_trace
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from turbospec.v1 import admin_pb2, admin_pb2_grpc

PHYSICS = Physics(acceptance=0.8, step_seconds=cheap_drafts)
TIMEOUT_S = 60.0


class Watch:
    """One open watch, and what it has brought."""

    def __init__(self, channel: grpc.aio.Channel, engine_id: str = "") -> None:
        stub = admin_pb2_grpc.SpeculationAdminServiceStub(channel)
        self.call = stub.WatchSteps(admin_pb2.WatchStepsRequest(engine_id=engine_id))
        self.engines: list[tuple[str, int]] = []
        self.steps: list[admin_pb2.ObservedStep] = []
        self.dropped_total = 0

    async def read_until(self, steps: int) -> None:
        while len(self.steps) < steps and await self.read():
            pass

    async def read(self) -> bool:
        message = await asyncio.wait_for(self.call.read(), TIMEOUT_S)
        if message is grpc.aio.EOF:
            return False
        self.engines += [(engine.engine_id, engine.epoch) for engine in message.engines]
        self.steps += message.steps
        self.dropped_total = message.dropped_total
        return True


@pytest.fixture
async def channel(unix_target: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(unix_target) as opened:
        yield opened


async def started(service: ControlService, watchers: int = 1) -> None:
    """Until the service has so many, so that no step comes before."""
    async with asyncio.timeout(TIMEOUT_S):
        while len(service._watchers._watchers) < watchers:
            await asyncio.sleep(0.01)


async def run(engine: SyntheticEngine, steps: int) -> None:
    await engine.run(steps, batch_size=2)
    await engine.flush()


async def test_every_learned_step_comes_once_in_order_under_its_own_epoch(
    service: ControlService, unix_target: str, channel: grpc.aio.Channel
) -> None:
    everything, one = Watch(channel), Watch(channel, "")
    await started(service, 2)
    lengths = []
    for engine_id, epoch in (("a", 1), ("b", 1), ("a", 2)):
        async with connected_engine(unix_target, make_profile(engine_id, epoch), PHYSICS) as engine:
            await run(engine, 60)
            lengths += engine.lengths
    for watched in (everything, one):
        await watched.read_until(180)
        assert watched.engines == [("a", 1), ("b", 1), ("a", 2)]
        assert [step.num_steps for step in watched.steps] == lengths
        assert [step.step_index for step in watched.steps] == [*range(1, 61)] * 3
        assert watched.dropped_total == 0
    first = everything.steps[0]
    assert (first.engine_id, first.epoch, first.previous_num_steps, first.source) == ("a", 1, -1, "lease")
    assert len(first.accepted_drafts) == len(first.first_step) == first.batch_size == 2
    assert 0.0 < first.duration_s < 1.0


async def test_a_watch_of_one_engine_brings_only_its_steps(
    service: ControlService, unix_target: str, channel: grpc.aio.Channel
) -> None:
    async with connected_engine(unix_target, make_profile("a"), PHYSICS) as engine:
        await engine.ask(1)
        watched = Watch(channel, "a")
        await started(service)
        async with connected_engine(unix_target, make_profile("b"), PHYSICS) as other:
            await run(other, 20)
        await run(engine, 20)
    await watched.read_until(20)
    assert {step.engine_id for step in watched.steps} == {"a"}


async def test_an_unknown_engine_cannot_be_watched(channel: grpc.aio.Channel) -> None:
    watched = Watch(channel, "nobody")
    assert await watched.call.code() is grpc.StatusCode.NOT_FOUND
    assert (await watched.call.details()).startswith("engine_id: 'nobody'")


async def test_a_full_queue_loses_steps_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "QUEUE_STEPS", 5)
    watchers = watch.StepWatchers()
    profile = type("Profile", (), {"engine_id": "a"})()
    with watchers.watching("") as slow, watchers.watching("") as quick:
        turns = quick.turns()
        for number in range(12):
            watchers.publish(profile, number)  # type: ignore[arg-type]
            assert [step.step for step in await anext(turns)] == [number]
        assert (quick.dropped_total, slow.dropped_total) == (0, 7)
        watchers.close()
        assert [step.step async for turn in slow.turns() for step in turn] == [0, 1, 2, 3, 4]


async def test_there_are_only_so_many_watchers(
    service: ControlService, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCHERS_MAX", 1)
    first = Watch(channel)
    await started(service)
    assert await Watch(channel).call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.call.cancel()
    async with asyncio.timeout(TIMEOUT_S):
        while service._watchers._watchers:
            await asyncio.sleep(0.01)
    again = Watch(channel)
    await started(service)
    again.call.cancel()


async def test_a_service_that_stops_ends_its_watches_cleanly(
    service: ControlService, channel: grpc.aio.Channel
) -> None:
    watched = Watch(channel)
    await started(service)
    await service.stop()
    assert not await watched.read()
    assert await watched.call.code() is grpc.StatusCode.OK


async def recorder(target: str, out: Path, *flags: str) -> Process:
    words = ("-m", "control_service.cli.main", "record", str(out), "--control-address", target, *flags)
    return await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=PIPE, stderr=PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )


async def ended(process: Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
async def test_a_recording_holds_what_the_engine_did(
    suffix: str, service: ControlService, unix_target: str, tmp_path: Path
) -> None:
    out = tmp_path / f"steps{suffix}"
    process = await recorder(unix_target, out, "--steps", "100", "--json")
    await started(service)
    async with connected_engine(unix_target, make_profile(), PHYSICS) as engine:
        await run(engine, 120)
    code, stdout, stderr = await ended(process)
    assert code == ExitCode.DONE, stderr
    assert json.loads(stdout) == {
        "path": str(out), "steps": 100, "engines": ["engine-a"], "dropped_steps": 0
    }  # fmt: skip
    trace = read_step_trace(out)
    assert [traced.step.num_steps for traced in trace.steps] == engine.lengths[:100]
    assert trace.engines[0].candidate_num_steps == (0, 1, 2, 3, 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
async def test_a_recording_that_is_told_to_stop_is_complete(
    suffix: str, number: signal.Signals, service: ControlService, unix_target: str, tmp_path: Path
) -> None:
    out = tmp_path / f"steps{suffix}"
    process = await recorder(unix_target, out)
    await started(service)
    async with connected_engine(unix_target, make_profile(), PHYSICS) as engine:
        await run(engine, 40)
    async with asyncio.timeout(TIMEOUT_S):
        # Until the line of the last step is in the file; Parquet shows nothing before its end.
        while suffix == ".jsonl" and out.read_text().count("\n") < 42:
            await asyncio.sleep(0.01)
    process.send_signal(number)
    code, stdout, stderr = await ended(process)
    assert code == ExitCode.DONE, stderr
    assert "Traceback" not in stderr
    recorded = len(read_step_trace(out).steps)
    assert f"{recorded} steps of" in stdout
    assert recorded == 40 or suffix == ".parquet"


async def test_a_recording_ends_after_its_seconds(unix_target: str, tmp_path: Path) -> None:
    code, stdout, _ = await ended(await recorder(unix_target, tmp_path / "steps.jsonl", "--seconds", "0.5"))
    assert code == ExitCode.DONE
    assert "0 steps of 0 engines" in stdout


@pytest.mark.parametrize(
    ("name", "flags", "code", "said"),
    [
        ("steps.csv", (), ExitCode.USAGE, "no known suffix"),
        ("there.jsonl", (), ExitCode.USAGE, "a file that does not exist yet"),
        ("no/where.jsonl", (), ExitCode.USAGE, "cannot be written"),
        ("steps.jsonl", ("--engine", "nobody"), ExitCode.REFUSED, "engine_id: 'nobody' is not known"),
    ],
)
async def test_what_cannot_be_recorded_is_said_and_leaves_no_file(
    name: str, flags: tuple[str, ...], code: int, said: str, unix_target: str, tmp_path: Path
) -> None:
    (tmp_path / "there.jsonl").write_text("precious")
    found, _, stderr = await ended(await recorder(unix_target, tmp_path / name, *flags))
    assert found == code
    assert said in stderr
    assert [path.name for path in tmp_path.glob("*.*")] == ["there.jsonl"]
    assert (tmp_path / "there.jsonl").read_text() == "precious"
