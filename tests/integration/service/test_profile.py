"""`turbospec profile` against a real service, an HTTP endpoint, and an engine that serves what it is sent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import grpc
import pytest

from control_service.cli.errors import ExitCode
from control_service.cli.profile import HOLD_SPARE_S
from control_service.cli.profile_load import ANSWER_TOKENS
from control_service.server.app import ControlService
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from turbospec.v1 import admin_pb2, admin_pb2_grpc, control_pb2

PHYSICS = Physics(acceptance=0.6, step_seconds=cheap_drafts)
LENGTHS = (0, 1, 2, 3, 5)
TIMEOUT_S = 60.0


class Endpoint:
    """Answers completions until the client leaves, and says how many are under way."""

    def __init__(self) -> None:
        self.running = 0
        self.status = 200
        self.bodies: list[dict[str, object]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("GET /v1/models"):
                await self._answer(writer, 200, json.dumps({"data": [{"id": "some-model"}]}))
                return
            length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
            self.bodies.append(json.loads(await reader.readexactly(length)))
            if self.status != 200:
                await self._answer(writer, self.status, "no room")
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n")
            self.running += 1
            try:
                await reader.read()
            finally:
                self.running -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, status: int, text: str) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        writer.write((head + text).encode())
        await writer.drain()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield endpoint
    server.close()
    await server.wait_closed()


@pytest.fixture
async def engine(service: ControlService, endpoint: Endpoint) -> AsyncIterator[SyntheticEngine]:
    """Runs a step after the other with as many requests as the endpoint has."""
    target = str(service.addresses[0])
    async with connected_engine(target, make_profile(), PHYSICS) as connected:
        await connected.ask(1)

        async def work() -> None:
            while True:
                if endpoint.running:
                    await connected.run(1, endpoint.running)
                await asyncio.sleep(0.002)

        task = asyncio.create_task(work())
        yield connected
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def admin(unix_target: str) -> AsyncIterator[admin_pb2_grpc.SpeculationAdminServiceStub]:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        yield admin_pb2_grpc.SpeculationAdminServiceStub(channel)


Admin = admin_pb2_grpc.SpeculationAdminServiceStub


async def profiling(target: str, endpoint: Endpoint, *flags: str) -> Process:
    words = ("-m", "control_service.cli.main", "profile", "--control-address", target, "--url", endpoint.url)
    return await asyncio.create_subprocess_exec(
        sys.executable, *words, *flags, stdout=PIPE, stderr=PIPE, env=dict(os.environ)
    )


async def ended(process: Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return process.returncode, out.decode(), err.decode()


async def policy_of(admin: Admin) -> tuple[str, dict[str, str]]:
    status = (await admin.ListEngines(admin_pb2.ListEnginesRequest())).engines[0]
    return status.policy, dict(status.policy_parameters)


async def test_every_length_is_measured_at_every_batch_size_and_learned(
    engine: SyntheticEngine, endpoint: Endpoint, unix_target: str, admin: Admin
) -> None:
    code, out, err = await ended(
        await profiling(unix_target, endpoint, "--batch-sizes", "4,1", "--steps", "10", "--json")
    )
    assert code == ExitCode.DONE, err
    cells = {(cell["num_steps"], cell["batch_size"]): cell for cell in json.loads(out)["cells"]}
    assert sorted(cells) == [(length, size) for length in LENGTHS for size in (1, 4)]
    for (length, size), cell in cells.items():
        assert cell["steps"] >= 10
        # What the engine said its steps lasted, not what they took here.
        assert cell["median_step_ms"] == pytest.approx(cheap_drafts(size, length) * 1e3, rel=0.05)
    assert endpoint.running == 0
    assert {body["model"] for body in endpoint.bodies} == {"some-model"}
    assert [body["max_tokens"] for body in endpoint.bodies] == [
        ANSWER_TOKENS * n // 4 for n in (4, 1, 2, 3, 4)
    ]
    models = await admin.GetEngineModels(admin_pb2.GetEngineModelsRequest(engine_id="engine-a"))
    assert models.step_time_ready
    assert {(c.num_steps, c.batch_size) for c in models.step_time} >= set(cells)
    assert await policy_of(admin) == ("goodput", {})


async def test_people_get_a_table(engine: SyntheticEngine, endpoint: Endpoint, unix_target: str) -> None:
    code, out, err = await ended(
        await profiling(unix_target, endpoint, "engine-a", "--batch-sizes", "2", "--steps", "3")
    )
    assert code == ExitCode.DONE, err
    assert "2 at a time" in out
    assert "median ms a step (steps)" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_told_to_stop_it_puts_the_policy_back(
    number: signal.Signals, engine: SyntheticEngine, endpoint: Endpoint, unix_target: str, admin: Admin
) -> None:
    before = {"num_steps": "2"}
    await admin.SetPolicy(
        admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="static", parameters=before)
    )
    process = await profiling(unix_target, endpoint, "--steps", "1000", "--cell-seconds", "30")
    async with asyncio.timeout(TIMEOUT_S):
        while await policy_of(admin) == ("static", before) or not endpoint.running:
            await asyncio.sleep(0.01)
    process.send_signal(number)
    await ended(process)
    assert await policy_of(admin) == ("static", before)


async def test_killed_it_leaves_a_policy_that_ends_by_itself(
    engine: SyntheticEngine, endpoint: Endpoint, unix_target: str, admin: Admin
) -> None:
    """Nobody is left to put the policy back: the service does, when the hold is over."""
    process = await profiling(unix_target, endpoint, "--steps", "1000", "--cell-seconds", "2")
    async with asyncio.timeout(TIMEOUT_S):
        while (await policy_of(admin))[0] != "static" or not endpoint.running:
            await asyncio.sleep(0.01)
    process.kill()
    await ended(process)
    left_ms = (await admin.ListEngines(admin_pb2.ListEnginesRequest())).engines[0].policy_hold_left_ms
    assert 0 < left_ms <= (2 + HOLD_SPARE_S) * 1e3
    # The rest of the hold, shortened: setting it again keeps what was before.
    request = admin_pb2.SetPolicyRequest(
        engine_id="engine-a", policy="static", parameters={"num_steps": "1"}, hold_for_ms=50
    )
    await admin.SetPolicy(request)
    async with asyncio.timeout(TIMEOUT_S):
        while await policy_of(admin) != ("goodput", {}):
            await asyncio.sleep(0.01)


async def test_a_policy_that_was_set_for_a_while_is_put_back_for_the_rest_of_it(
    engine: SyntheticEngine, endpoint: Endpoint, unix_target: str, admin: Admin
) -> None:
    request = admin_pb2.SetPolicyRequest(
        engine_id="engine-a", policy="static", parameters={"num_steps": "2"}, hold_for_ms=600_000
    )
    await admin.SetPolicy(request)
    code, _, err = await ended(await profiling(unix_target, endpoint, "--batch-sizes", "1", "--steps", "2"))
    assert code == ExitCode.DONE, err
    assert await policy_of(admin) == ("static", {"num_steps": "2"})
    left_ms = (await admin.ListEngines(admin_pb2.ListEnginesRequest())).engines[0].policy_hold_left_ms
    assert 0 < left_ms < 600_000


async def test_an_endpoint_that_refuses_is_quoted_and_the_policy_put_back(
    engine: SyntheticEngine, endpoint: Endpoint, unix_target: str, admin: Admin
) -> None:
    endpoint.status = 503
    code, _, err = await ended(await profiling(unix_target, endpoint, "--cell-seconds", "0.5"))
    assert code == ExitCode.CHILD_FAILED
    assert "answered 503: no room" in err
    assert await policy_of(admin) == ("goodput", {})


async def test_an_endpoint_of_another_engine_is_noticed(
    service: ControlService, endpoint: Endpoint, unix_target: str, admin: Admin
) -> None:
    async with connected_engine(unix_target, make_profile(), PHYSICS) as idle:
        await idle.ask(1)
        flags = ("--cell-seconds", "0.1", "--batch-sizes", "1")
        code, _, err = await ended(await profiling(unix_target, endpoint, *flags))
    assert code == ExitCode.CHILD_FAILED
    assert "no step was reported" in err


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("nobody",), ExitCode.USAGE, "ENGINE is 'nobody'; allowed: engine-a"),
        (("--batch-sizes", "1,17"), ExitCode.USAGE, "sizes from 1 to 16"),
        (("--batch-sizes", "0"), ExitCode.USAGE, "sizes from 1 to 16"),
        (("--batch-sizes", ""), ExitCode.USAGE, "sizes from 1 to 16"),
        (("--url", "http://127.0.0.1:1"), ExitCode.UNREACHABLE, "does not name a model"),
    ],
)
async def test_what_cannot_be_profiled_is_said(
    flags: tuple[str, ...],
    code: int,
    said: str,
    engine: SyntheticEngine,
    endpoint: Endpoint,
    unix_target: str,
) -> None:
    found, _, err = await ended(await profiling(unix_target, endpoint, *flags))
    assert found == code
    assert said in err
    assert not endpoint.bodies


async def test_an_engine_that_does_not_obey_is_left_alone(
    engine: SyntheticEngine, endpoint: Endpoint, unix_target: str, admin: Admin
) -> None:
    await admin.SetMode(admin_pb2.SetModeRequest(engine_id="engine-a", mode=control_pb2.MODE_SHADOW))
    code, _, err = await ended(await profiling(unix_target, endpoint))
    assert code == ExitCode.REFUSED
    assert "turbospec mode engine-a enforce" in err
