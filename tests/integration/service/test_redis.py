"""Learned state in a real Redis: shared by services, refused like in a file, and missed without harm."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from structlog.testing import capture_logs

from control_service.server.app import ControlService
from control_service.settings import ServiceSettings
from control_service.store.open import open_store
from control_service.store.protocol import Store, StoreError
from control_service.store.redis import SAVED_AT, STATES, RedisStore
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from tests.integration.service.test_process import Process
from tests.support.redis_server import RedisServer
from turbospec.v1 import admin_pb2, admin_pb2_grpc

PHYSICS = Physics(0.8, cheap_drafts)
LEARNING_STEPS = 300


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path)
    yield running
    running.kill()


def opened(url: str) -> Store:
    store = open_store(url)
    assert store is not None
    return store


def settings(url: str, **changes: Any) -> ServiceSettings:
    values: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "metrics_listen": "",
        "shutdown_grace_s": 0.2,
        "store": url,
        "store_save_interval_s": 0.1,
    }
    return ServiceSettings(**{**values, **changes})


async def learn(service: ControlService, **changes: Any) -> None:
    async with connected_engine(str(service.addresses[0]), make_profile(**changes), PHYSICS) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def test_what_is_saved_is_there_for_every_client_over_tcp_and_unix(server: RedisServer) -> None:
    server.start()
    first, second = opened(server.url), opened(server.unix_url)
    assert first.load("a") is None
    first.save("a", b"\x00one\xff")
    second.save("b", b"two")
    assert (second.load("a"), first.load("b")) == (b"\x00one\xff", b"two")
    second.save("a", b"newer")
    assert first.load("a") == b"newer"
    first.close()
    second.close()


def test_keys_that_were_not_saved_for_longest_give_way(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_service.store.redis.KEYS_MAX", 5)
    server.start()
    now = iter(range(100))
    store = RedisStore(server.url, "redis", clock=lambda: float(next(now)))
    for number in range(8):
        store.save(f"key-{number}", b"x")
    store.save("key-3", b"again")
    store.save("key-8", b"x")
    left = {number for number in range(9) if store.load(f"key-{number}") is not None}
    assert left == {3, 5, 6, 7, 8}
    with redis.Redis.from_url(server.url) as client:
        assert client.hlen(STATES) == client.zcard(SAVED_AT) == 5
    store.close()


def test_a_server_that_comes_back_is_used_again_by_the_same_store(server: RedisServer) -> None:
    store = opened(server.url)
    with pytest.raises(StoreError, match=f"redis://127.0.0.1:{server.port}/0: .*refused"):
        store.load("a")
    server.start()
    store.save("a", b"one")
    server.kill()
    with pytest.raises(StoreError):
        store.save("a", b"two")
    server.start()
    store.save("a", b"three")
    assert store.load("a") == b"three"
    store.close()


def test_keys_of_somebody_else_are_refused_and_left_as_they_are(server: RedisServer) -> None:
    server.start()
    store = opened(server.url)
    with redis.Redis.from_url(server.url) as client:
        client.set(STATES, "precious")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            store.load("a")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            store.save("a", b"one")
        assert client.get(STATES) == b"precious"
    store.close()


class Replicas:
    """Real service processes that share one store."""

    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self._url = url
        self.processes: list[Process] = []

    def start(self) -> tuple[Process, str]:
        directory = self._directory / f"replica-{len(self.processes)}"
        directory.mkdir()
        flags = ("--listen", "127.0.0.1:0", "--metrics-listen", "", "--store", self._url)
        process = Process(directory, *flags, "--store-save-interval-s", "0.1", "--log-format", "json")
        self.processes.append(process)
        addresses = process.wait_ready()["grpc"]
        assert isinstance(addresses, list)
        return process, str(addresses[0])

    def close(self) -> None:
        for process in self.processes:
            if process.child.poll() is None:
                process.child.kill()
                process.child.communicate()


@pytest.fixture
def replicas(tmp_path: Path, server: RedisServer) -> Iterator[Replicas]:
    running = Replicas(tmp_path, server.url)
    yield running
    running.close()


async def first_decision(address: str, engine: SyntheticEngine) -> admin_pb2.ExplainDecisionResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        admin = admin_pb2_grpc.SpeculationAdminServiceStub(channel)
        request = admin_pb2.ExplainDecisionRequest(engine_id=engine.profile.engine_id, decision_id=1)
        return await admin.ExplainDecision(request)


async def test_an_engine_that_moves_to_another_service_is_known_there(
    server: RedisServer, replicas: Replicas
) -> None:
    server.start()
    (first, first_address), (_, second_address) = replicas.start(), replicas.start()
    async with connected_engine(first_address, make_profile(), PHYSICS) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
        with redis.Redis.from_url(server.url) as client:
            await until(lambda: client.hlen(STATES) == 1)
        first.stop(signal.SIGKILL)
        await engine.end()
    lengths = engine.lengths
    async with grpc.aio.insecure_channel(second_address) as channel:
        moved = SyntheticEngine(channel, make_profile(), PHYSICS)
        # The same engine, in the middle of its epoch.
        moved.lengths = list(lengths)
        await moved.introduce()
        await moved.run(10, batch_size=3)
        await moved.flush()
        decision = await first_decision(second_address, moved)
        await moved.close()
    assert decision.step_index == LEARNING_STEPS + 1
    assert decision.reason == "best_goodput"
    assert [candidate.num_steps for candidate in decision.candidates] == [0, 1, 2, 3, 5]
    assert all(candidate.goodput_tokens_per_s > 0 for candidate in decision.candidates)
    assert decision.num_steps == lengths[-1]
    assert moved.rejected_spans == 0


async def test_two_services_that_teach_one_kind_of_engine_leave_a_whole_state(server: RedisServer) -> None:
    server.start()
    teachers = [ControlService(settings(server.url)) for _ in range(2)]
    for teacher in teachers:
        await teacher.start()

    def has_saved(teacher: ControlService, saves: int) -> bool:
        return teacher._learned.saves_total >= saves

    async def teach(teacher: ControlService, engine_id: str) -> None:
        async with connected_engine(str(teacher.addresses[0]), make_profile(engine_id), PHYSICS) as engine:
            for saves in range(1, 6):
                await engine.run(60, batch_size=3)
                await engine.flush()
                await until(functools.partial(has_saved, teacher, saves))

    await asyncio.gather(*(teach(teacher, f"engine-{n}") for n, teacher in enumerate(teachers)))
    for teacher in teachers:
        await teacher.stop()
    with redis.Redis.from_url(server.url) as client:
        assert client.hlen(STATES) == 1
    pupil = ControlService(settings(server.url))
    await pupil.start()
    address = str(pupil.addresses[0])
    async with connected_engine(address, make_profile("engine-2"), PHYSICS) as engine:
        await engine.run(1, batch_size=3)
        decision = await first_decision(address, engine)
    assert decision.reason == "best_goodput"
    assert len(decision.candidates) == 5
    await pupil.stop()


async def test_without_redis_the_service_runs_on_says_so_once_and_saves_when_it_is_back(
    server: RedisServer,
) -> None:
    with capture_logs() as log:
        service = ControlService(settings(server.url))
        await service.start()
        try:
            # Redis is not there when the service starts,
            await learn(service)
            errors = service._learned.errors_by_operation
            await until(lambda: errors["save"] >= 3)
            assert errors["load"] == 1
            # comes,
            server.start()
            await learn(service, epoch=2)
            await until(lambda: service._learned.saves_total >= 1)
            # goes in mid-run,
            server.kill()
            failed = errors["save"]
            await learn(service, epoch=3)
            await until(lambda: errors["save"] >= failed + 2)
            # and comes back, empty.
            server.start()
            saves = service._learned.saves_total
            await until(lambda: service._learned.saves_total > saves)
            with redis.Redis.from_url(server.url) as client:
                assert client.hlen(STATES) == 1
        finally:
            await service.stop()
    about_the_store = [line for line in log if line["event"].startswith("learned_state_")]
    events = [line["event"] for line in about_the_store if line["log_level"] != "debug"]
    outage = ["learned_state_not_saved", "learned_state_saved_again"]
    assert events == ["learned_state_not_used", *outage, *outage]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda sealed: sealed.replace(b'"version": 1', b'"version": 99', 1), "version: 99 is not allowed"),
        (lambda sealed: sealed[:-5] + bytes([sealed[-5] ^ 1]) + sealed[-4:], "sha256: "),
        (lambda sealed: b"", "format: "),
    ],
)
async def test_state_that_does_not_fit_is_refused_by_reason(
    change: Any, said: str, server: RedisServer
) -> None:
    server.start()
    teacher = ControlService(settings(server.url))
    await teacher.start()
    await learn(teacher)
    await teacher.stop()
    with redis.Redis.from_url(server.url) as client:
        ((key, sealed),) = client.hgetall(STATES).items()  # type: ignore[union-attr]
        client.hset(STATES, key, change(sealed))  # type: ignore[arg-type]
    pupil = ControlService(settings(server.url))
    await pupil.start()
    with capture_logs() as log:
        async with connected_engine(str(pupil.addresses[0]), make_profile(), PHYSICS) as engine:
            await engine.ask(3)
    (refused,) = [line["reason"] for line in log if line["event"] == "learned_state_not_used"]
    assert refused.startswith(said)
    assert pupil._learned.refused_total == 1
    assert not pupil._learned.errors_by_operation
    await pupil.stop()
