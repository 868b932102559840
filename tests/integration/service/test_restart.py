"""The service dies and comes back: what it had learned is there again, for the engine it is about alone."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from tests.integration.service.test_process import Process
from turbospec.v1 import admin_pb2, admin_pb2_grpc

PHYSICS = Physics(acceptance=0.8, step_seconds=cheap_drafts)
LEARNING_STEPS = 300
# Within so many steps of a restart the service must be deciding by what it knew.
WARM_STEPS = 10
UNPREPARED = {"cold_start", "models_not_ready", "no_telemetry"}


class Service:
    """One service after another on one store, and the log of the newest."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "state" / "learned.sqlite3"
        self._directory = directory
        self._process: Process | None = None

    def start(self, **flags: str) -> str:
        options = {"listen": "127.0.0.1:0", "store": str(self.store), "log-format": "json"} | flags
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = Process(self._directory, *words, "--metrics-listen", "", "--log-level", "debug")
        addresses = self._process.wait_ready()["grpc"]
        assert isinstance(addresses, list)
        return str(addresses[0])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> list[dict[str, Any]]:
        """Its log."""
        assert self._process is not None
        code, _, err = self._process.stop(number)
        assert code == (0 if number is signal.SIGTERM else -number)
        self._process.ready_file.unlink(missing_ok=True)
        return [json.loads(line) for line in err.splitlines()]

    def close(self) -> None:
        if self._process is not None and self._process.child.poll() is None:
            self._process.child.kill()
            self._process.child.communicate()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@asynccontextmanager
async def engine_at(address: str, **changes: Any) -> AsyncIterator[SyntheticEngine]:
    async with connected_engine(address, make_profile(**changes), PHYSICS) as engine:
        yield engine


async def learn(service: Service, **changes: Any) -> None:
    """A service that learns, saves at its end, and is gone."""
    async with engine_at(service.start(), **changes) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
    service.stop()


async def first_decisions(
    address: str, *, steps_before: int = 0, **changes: Any
) -> list[admin_pb2.ExplainDecisionResponse]:
    """The first decisions for an engine that connects, as the service explains them."""
    async with engine_at(address, **changes) as engine, grpc.aio.insecure_channel(address) as channel:
        engine.lengths = [0] * steps_before
        await engine.run(WARM_STEPS, batch_size=3)
        admin = admin_pb2_grpc.SpeculationAdminServiceStub(channel)
        asked = [
            admin_pb2.ExplainDecisionRequest(engine_id=engine.profile.engine_id, decision_id=number)
            for number in range(1, WARM_STEPS + 1)
        ]
        return [await admin.ExplainDecision(request) for request in asked]


def is_warm(decisions: list[admin_pb2.ExplainDecisionResponse]) -> bool:
    return all(d.reason not in UNPREPARED and len(d.candidates) == 5 for d in decisions)


def reasons_of(log: list[dict[str, Any]], event: str) -> list[str]:
    return [line.get("reason", "") for line in log if line["event"] == event]


async def wait_saved(service: Service) -> None:
    """Until the store holds something, whoever put it there."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if service.store.exists():
            connection = sqlite3.connect(f"file:{service.store}?mode=ro", uri=True)
            try:
                if connection.execute("SELECT count(*) FROM learned").fetchone()[0]:
                    return
            except sqlite3.OperationalError:
                pass  # not made yet
            finally:
                connection.close()
        time.sleep(0.05)
    raise TimeoutError("nothing was saved")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_after_a_restart_the_first_decisions_come_from_what_was_learned(
    number: signal.Signals, service: Service
) -> None:
    # At SIGTERM what was learned is saved whatever the interval; SIGKILL leaves what was saved before it.
    address = service.start(**{"store-save-interval-s": "3600" if number is signal.SIGTERM else "0.1"})
    async with engine_at(address) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
        decided = engine.lengths[-1]
        if number is signal.SIGKILL:
            await wait_saved(service)
        service.stop(number)
        await engine.end()
    address = service.start()
    # The engine has gone on without the service in the meantime.
    decisions = await first_decisions(address, steps_before=LEARNING_STEPS + 40)
    assert is_warm(decisions)
    assert decisions[0].step_index == LEARNING_STEPS + 41
    assert decisions[0].num_steps == decided
    log = service.stop()
    assert reasons_of(log, "learned_state_loaded")
    assert not reasons_of(log, "learned_state_not_used")


async def test_another_engine_of_the_same_profile_starts_warm_too(service: Service) -> None:
    await learn(service, engine_id="first")
    assert is_warm(await first_decisions(service.start(), engine_id="second", epoch=9))


@pytest.mark.parametrize(
    "change", [{"accelerator": "other gpu"}, {"max_running_requests": 32}, {"draft_model": "other"}]
)
async def test_a_foreign_profile_is_not_used_and_that_is_said(
    change: dict[str, Any], service: Service
) -> None:
    await learn(service)
    decisions = await first_decisions(service.start(), **change)
    assert decisions[0].reason == "cold_start"
    assert not decisions[0].candidates
    log = service.stop()
    assert reasons_of(log, "learned_state_not_used") == ["nothing is kept for engines of this profile"]
    assert not reasons_of(log, "learned_state_loaded")


def _seal_for_another(sealed: bytes) -> bytes:
    return sealed.replace(b'"key": "', b'"key": "0', 1)


def _raise_version(sealed: bytes) -> bytes:
    return sealed.replace(b'"version": 1', b'"version": 99', 1)


def _flip_a_bit(sealed: bytes) -> bytes:
    return sealed[:-5] + bytes([sealed[-5] ^ 1]) + sealed[-4:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_seal_for_another, "key: "),
        (_raise_version, "version: 99 is not allowed; must be 1"),
        (_flip_a_bit, "sha256: "),
    ],
)
async def test_state_that_does_not_fit_is_refused_by_reason_then_replaced(
    change: Callable[[bytes], bytes], said: str, service: Service
) -> None:
    await learn(service)
    with sqlite3.connect(service.store) as connection:
        key, sealed = connection.execute("SELECT key, state FROM learned").fetchone()
        assert change(sealed) != sealed
        connection.execute("UPDATE learned SET state = ? WHERE key = ?", (change(sealed), key))
    connection.close()
    address = service.start()
    async with engine_at(address) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
    (reason,) = reasons_of(service.stop(), "learned_state_not_used")
    assert reason.startswith(said)
    # What was learned since then took its place.
    assert is_warm(await first_decisions(service.start()))


async def test_a_corrupt_file_is_set_aside_and_the_service_works(service: Service) -> None:
    service.store.parent.mkdir()
    service.store.write_bytes(b"not a database, whatever its name" * 200)
    await learn(service)
    (aside,) = service.store.parent.glob("learned.sqlite3.corrupt-*")
    assert aside.read_bytes().startswith(b"not a database")
    assert is_warm(await first_decisions(service.start()))


@pytest.mark.parametrize(
    "store",
    [
        pytest.param("/dev/null/learned.sqlite3", id="no directory"),
        # Takes no new files, from root neither.
        pytest.param("/proc/learned.sqlite3", id="read-only"),
    ],
)
async def test_without_a_place_to_write_the_service_goes_on_and_warns_once(
    store: str, service: Service
) -> None:
    address = service.start(**{"store": store, "store-save-interval-s": "0.1"})
    async with engine_at(address) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
        time.sleep(0.5)
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
        assert engine.lengths[-1] == 5
    log = service.stop()
    (reason,) = reasons_of(log, "learned_state_not_saved")
    assert store in reason
    assert [line["level"] for line in log if line["event"] == "learned_state_not_saved"] == ["warning"]


async def test_without_a_store_nothing_is_kept(service: Service) -> None:
    async with engine_at(service.start(store="")) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
    log = service.stop()
    assert not [line for line in log if line["event"].startswith("learned_")]
    assert not service.store.parent.exists()
