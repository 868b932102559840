"""`turbospec doctor` on a healthy set-up and on broken ones, each broken for real."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from control_service.cli.doctor import engines, ports, service, store, variables
from control_service.cli.doctor.finding import Finding, Findings, Level
from control_service.cli.doctor.subject import Subject, find_subject
from control_service.cli.errors import CliError, ExitCode
from control_service.store.sqlite import SqliteStore
from tests.integration.service import synthetic_engine
from tests.integration.service.commands import Ended, clean_environment, run
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    export_request,
    make_profile,
    make_span,
)
from tests.support.control_process import ControlProcess
from tests.support.engine_server import free_port

PHYSICS = Physics(0.8, cheap_drafts)
STEP_S = synthetic_engine.SPAN_SPACING_NS / 1e9


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """What doctor would look at, with nothing of this user's own in it."""
    for name in list(os.environ):
        if name.startswith("TURBOSPEC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def make(control_address: str | None = None, *, port: int = 0, metrics_port: int = 0) -> Subject:
        return find_subject(
            os.environ, tmp_path / "run-dir", control_address, "cpu", (port or free_port(), metrics_port)
        )

    return make


async def findings_of(check: Callable[[Subject], Findings], subject: Subject) -> dict[str, Finding]:
    """By check; in a thread, since the service they ask may live in this one."""
    found = await asyncio.to_thread(lambda: list(check(subject)))
    return {finding.check: finding for finding in found}


def problems(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.level is Level.PROBLEM]


@pytest.fixture
async def running_engine(unix_target: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SyntheticEngine]:
    """Steps all the time, with spans of now."""
    monkeypatch.setattr(synthetic_engine, "START_NS", 0)
    async with connected_engine(unix_target, make_profile(), PHYSICS) as engine:

        async def work() -> None:
            while True:
                steps_ns = (len(engine.lengths) + 1) * synthetic_engine.SPAN_SPACING_NS
                synthetic_engine.START_NS = time.time_ns() - steps_ns
                await engine.run(1, batch_size=2)
                await asyncio.sleep(STEP_S)

        task = asyncio.create_task(work())
        yield engine
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def doctor(tmp_path: Path, *words: str, **environment: str) -> Ended:
    """The whole command, with a state directory of its own."""
    return await run(
        *("doctor", "--json", "--device", "cpu", "--run-dir", str(tmp_path / "run-dir")),
        *("--port", str(free_port()), "--metrics-port", "0", *words),
        environment=clean_environment(XDG_STATE_HOME=str(tmp_path / "state"), **environment),
    )


async def test_a_healthy_set_up_has_no_problem(
    unix_target: str, running_engine: SyntheticEngine, tmp_path: Path
) -> None:
    done = await doctor(tmp_path, "--control-address", unix_target)
    report = json.loads(done.out)
    bad = [finding for finding in report["findings"] if finding["level"] == "problem"]
    assert (done.code, bad) == (ExitCode.DONE, []), done.err
    levels = {finding["check"]: finding["level"] for finding in report["findings"]}
    checks = (
        *("python", "sglang", "contract", "plugin", "cpu kernels", "engine settings", "service settings"),
        *("port", "socket", "socket mode", "service", "store", "disk space"),
        *("engine-a link", "engine-a telemetry", "engine-a fallbacks", "engine-a clock"),
    )
    for check in checks:
        assert levels[check] == "ok", [f for f in report["findings"] if f["check"] == check]
    assert all(finding["fix"] for finding in report["findings"] if finding["level"] != "ok")


async def test_a_drifted_sglang_is_named_and_fails(tmp_path: Path) -> None:
    """Another plugin changes SGLang as it is loaded, before ours is."""
    site = tmp_path / "site"
    metadata = site / "drift-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: drift\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[sglang.srt.plugins]\ndrift = drift:register\n")
    (site / "drift.py").write_text(
        "from sglang.srt.speculative.ngram_worker import NGRAMWorker\n"
        "del NGRAMWorker._update_ngram_corpus\n"
        "def register(): pass\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = await doctor(tmp_path, PYTHONPATH=path)
    assert done.code == ExitCode.UNHEALTHY
    (finding,) = [f for f in json.loads(done.out)["findings"] if f["check"] == "contract"]
    assert finding["level"] == "problem"
    assert "NGRAMWorker._update_ngram_corpus is gone" in finding["message"]
    assert "docs/new-sglang-release.md" in finding["fix"]


async def test_a_stale_socket_is_told_from_a_live_one(
    tmp_path: Path, subject: Callable[..., Subject]
) -> None:
    control = ControlProcess(tmp_path)
    await asyncio.to_thread(control.start)
    try:
        found = await findings_of(service.check, subject(control.address))
        assert problems(found) == []
        assert found["socket"].message.endswith("is live")
        port = _metrics_port(tmp_path)
        assert (
            "control_service"
            in (await findings_of(ports.check, subject(metrics_port=port)))["metrics port"].message
        )
    finally:
        control.kill()
    found = await findings_of(service.check, subject(control.address))
    assert problems(found) == ["socket"]
    assert "is stale" in found["socket"].message
    assert "turbospec up" in found["socket"].fix


def _metrics_port(directory: Path) -> int:
    ready = json.loads((directory / "control.ready").read_text())
    return int(ready["metrics"].rpartition(":")[2].partition("/")[0])


async def test_a_socket_that_others_may_use_is_a_problem(
    unix_target: str, subject: Callable[..., Subject]
) -> None:
    path = unix_target.removeprefix("unix:")
    os.chmod(path, 0o666)
    found = await findings_of(service.check, subject(unix_target))
    assert problems(found) == ["socket mode"]
    assert "0666" in found["socket mode"].message
    assert found["socket mode"].fix == f"chmod 600 {path}"


async def test_a_file_where_the_socket_should_be_is_a_problem(
    tmp_path: Path, subject: Callable[..., Subject]
) -> None:
    (tmp_path / "control.sock").write_text("")
    found = await findings_of(service.check, subject(f"unix:{tmp_path}/control.sock"))
    assert "is not a socket" in found["socket"].message


async def test_no_service_is_a_problem_only_where_one_must_be(
    tmp_path: Path, subject: Callable[..., Subject]
) -> None:
    found = await findings_of(service.check, subject())
    assert found["service"].level is Level.WARNING
    found = await findings_of(service.check, subject(f"unix:{tmp_path}/control.sock"))
    assert problems(found) == ["socket"]
    found = await findings_of(service.check, subject(f"127.0.0.1:{free_port()}"))
    assert problems(found) == ["service"]
    with pytest.raises(CliError):
        subject("nonsense")


async def test_a_port_that_is_taken_names_who_has_it(subject: Callable[..., Subject]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = await findings_of(ports.check, subject(port=port))
    assert problems(found) == ["port"]
    assert f"{port} is used by" in found["port"].message
    assert f"process {os.getpid()}" in found["port"].message


async def test_the_store_is_read_and_written_but_not_changed(
    tmp_path: Path, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "learned.sqlite3"
    monkeypatch.setenv("TURBOSPEC_SERVICE_STORE", str(path))
    assert "will be made" in (await findings_of(store.check, subject()))["store"].message
    assert not path.exists()
    kept = SqliteStore(path)
    kept.save("key", b"state")
    kept.close()
    assert "1 engine profiles" in (await findings_of(store.check, subject()))["store"].message

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "schema version 99" in (await findings_of(store.check, subject()))["store"].message

    path.write_bytes(b"garbage" * 1_000)
    found = await findings_of(store.check, subject())
    assert problems(found) == ["store"]
    assert "is damaged" in found["store"].message
    assert path.read_bytes() == b"garbage" * 1_000


async def test_a_store_that_cannot_be_made_is_a_problem(
    tmp_path: Path, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TURBOSPEC_SERVICE_STORE", str(tmp_path / "file" / "learned.sqlite3"))
    found = await findings_of(store.check, subject())
    assert problems(found) == ["store"]
    assert "is no directory" in found["store"].message


async def test_a_store_that_another_process_holds_is_a_problem(
    tmp_path: Path, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "learned.sqlite3"
    monkeypatch.setenv("TURBOSPEC_SERVICE_STORE", str(path))
    monkeypatch.setattr(store, "BUSY_TIMEOUT_S", 0.1)
    kept = SqliteStore(path)
    kept.save("key", b"state")
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    try:
        found = await findings_of(store.check, subject())
    finally:
        holder.close()
        kept.close()
    assert "locked" in found["store"].message


async def test_wrong_variables_are_named(
    subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems(await findings_of(variables.check, subject())) == []
    monkeypatch.setenv("TURBOSPEC_SERVICE_ENGINES_MAXX", "3")
    monkeypatch.setenv("TURBOSPEC_SERVICE_MODE", "on")
    monkeypatch.setenv("TURBOSPEC_CACHE_DIRECTORY", "/c")
    found = await asyncio.to_thread(lambda: list(variables.check(subject())))
    told = {finding.message: finding.fix for finding in found if finding.level is Level.PROBLEM}
    assert (
        "did you mean TURBOSPEC_SERVICE_ENGINES_MAX?"
        in told["TURBOSPEC_SERVICE_ENGINES_MAXX is not a setting"]
    )
    assert "TURBOSPEC_CACHE_DIRECTORY is not a setting" in told
    assert any(message.startswith("TURBOSPEC_SERVICE_MODE='on'") for message in told)
    # What depends on them says that it could not be looked at.
    assert (await findings_of(store.check, subject()))["store"].level is Level.WARNING


async def test_a_kill_file_is_seen(
    tmp_path: Path, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kill"
    monkeypatch.setenv("TURBOSPEC_KILL_FILE", str(file))
    assert (await findings_of(variables.check, subject()))["kill switch"].level is Level.OK
    file.touch()
    found = (await findings_of(variables.check, subject()))["kill switch"]
    assert (found.level, found.fix) == (Level.WARNING, f"rm {file}")


@pytest.mark.parametrize("idle", [True, False])
async def test_an_engine_whose_steps_are_not_reported_is_a_problem_unless_it_idles(
    unix_target: str, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    """An idle engine asks for its next step again and again, to have a lease when a request comes."""
    monkeypatch.setattr(engines, "WATCH_S", 0.5)
    async with connected_engine(unix_target, make_profile(), PHYSICS) as engine:
        await engine.ask(2)

        async def ask_on() -> None:
            while True:
                await engine.ask(2)
                if not idle:
                    engine.lengths.append(0)
                await asyncio.sleep(STEP_S)

        task = asyncio.create_task(ask_on())
        try:
            found = await findings_of(engines.check, subject(unix_target))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    telemetry = found["engine-a telemetry"]
    if idle:
        assert problems(found) == []
        assert "idle" in telemetry.message
    else:
        assert problems(found) == ["engine-a telemetry"]
        assert "TURBOSPEC_OTLP_ADDRESS" in telemetry.fix


async def test_fallbacks_and_a_clock_that_is_off_are_seen(
    unix_target: str, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "WATCH_S", 0.5)
    async with (
        grpc.aio.insecure_channel(unix_target) as channel,
        connected_engine(unix_target, make_profile(), PHYSICS) as engine,
    ):
        await engine.ask(2)
        traces = TraceServiceStub(channel)

        async def fall_back() -> None:
            for step in range(1, 10_000):
                late = {"decision_source": "fallback", "fallback_reason": "deadline"}
                await traces.Export(export_request("engine-a", 1, [make_span(step, 0, [0, 0], 0.01, **late)]))
                await asyncio.sleep(STEP_S)

        task = asyncio.create_task(fall_back())
        try:
            found = await findings_of(engines.check, subject(unix_target))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert problems(found) == ["engine-a fallbacks"]
    assert "too late" in found["engine-a fallbacks"].fix
    # The spans are of 2023.
    assert found["engine-a clock"].level is Level.WARNING
    assert "ago, by the engine's clock" in found["engine-a clock"].message


async def test_an_engine_that_left_is_a_problem(unix_target: str, subject: Callable[..., Subject]) -> None:
    async with connected_engine(unix_target, make_profile(), PHYSICS) as engine:
        await engine.ask(1)
    found = await findings_of(engines.check, subject(unix_target))
    assert problems(found) == ["engine-a link"]


async def test_warnings_fail_only_when_asked_to(tmp_path: Path, unix_target: str) -> None:
    """A service without an engine is a warning."""
    words = ("--control-address", unix_target, "--only", "engines", "--only", "service")
    lenient, strict = await doctor(tmp_path, *words), await doctor(tmp_path, *words, "--strict")
    report = json.loads(strict.out)
    assert {finding["group"] for finding in report["findings"]} == {"engines", "service"}
    assert (report["problems"], report["warnings"]) == (0, 1), report
    assert (lenient.code, strict.code) == (ExitCode.DONE, ExitCode.UNHEALTHY)


async def test_people_are_told_what_to_do(tmp_path: Path) -> None:
    words = ("doctor", "--only", "service", "--control-address", f"unix:{tmp_path}/control.sock")
    done = await run(*words)
    assert done.code == ExitCode.UNHEALTHY
    assert "problem" in done.out
    assert "-> start it: turbospec up" in done.out
    assert "1 problem, 0 warnings" in done.out
