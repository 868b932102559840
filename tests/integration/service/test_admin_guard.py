"""Who may call the admin service: over which address, with which token."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs
from typer.testing import CliRunner

from control_service.cli.errors import ExitCode
from control_service.cli.main import app
from control_service.server.app import ADMIN_SERVICE_NAME, CONTROL_SERVICE_NAME, ControlService
from control_service.server.errors import StartError
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import Physics, cheap_drafts, connected_engine, make_profile
from turbospec.v1 import admin_pb2, admin_pb2_grpc

TOKEN = "a-token-of-thirty-two-characters"
PHYSICS = Physics(0.8, cheap_drafts)
METHODS = admin_pb2.DESCRIPTOR.services_by_name["SpeculationAdminService"].methods

Start = Callable[..., Coroutine[Any, Any, ControlService]]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a service that is reached over a Unix socket and over TCP beyond loopback."""
    running = []

    async def start(**changes: Any) -> ControlService:
        values: dict[str, Any] = {
            "listen": f"unix:{tmp_path}/control.sock,0.0.0.0:0",
            "insecure": True,
            "metrics_listen": "",
            "shutdown_grace_s": 0.2,
        }
        service = ControlService(ServiceSettings(**{**values, **changes}))
        await service.start()
        running.append(service)
        return service

    yield start
    for service in running:
        await service.stop()


def tcp(service: ControlService) -> str:
    return f"127.0.0.1:{service.addresses[-1].port}"


async def list_engines(target: str, token: str | None = None) -> grpc.StatusCode:
    """How the simplest of the admin rpcs ends."""
    metadata = () if token is None else (("authorization", token),)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = admin_pb2_grpc.SpeculationAdminServiceStub(channel)
        try:
            await stub.ListEngines(admin_pb2.ListEnginesRequest(), metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_over_tcp_the_token_is_needed_and_on_a_unix_socket_it_is_not(
    start: Start, token_file: Path
) -> None:
    service = await start(admin_token_file=token_file)
    assert await list_engines(str(service.addresses[0])) is grpc.StatusCode.OK
    assert await list_engines(tcp(service), f"Bearer {TOKEN}") is grpc.StatusCode.OK
    with capture_logs() as log:
        for wrong in (None, "", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
            assert await list_engines(tcp(service), wrong) is grpc.StatusCode.UNAUTHENTICATED, wrong
    denied = service._admin_guard.denied_by_cause
    assert denied.keys() == {"no_token", "wrong_token"}
    assert denied.total() == 7
    assert {line["event"] for line in log} == {"admin_call_denied"}
    assert TOKEN not in str(log)


async def test_without_a_token_no_admin_rpc_at_all_is_served_over_tcp(start: Start) -> None:
    service = await start()
    async with grpc.aio.insecure_channel(tcp(service)) as channel:
        for method in METHODS:
            name = f"/{ADMIN_SERVICE_NAME}/{method.name}"
            call = (channel.unary_stream if method.server_streaming else channel.unary_unary)(name)(b"")
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED, method.name
            assert "admin_token_file" in await call.details()
    assert service._admin_guard.denied_by_cause == {"no_token_file": len(METHODS)}
    assert await list_engines(str(service.addresses[0])) is grpc.StatusCode.OK
    # Engines, health and reflection are nobody's secret.
    async with connected_engine(tcp(service), make_profile(), PHYSICS) as engine:
        await engine.ask(1)
    async with grpc.aio.insecure_channel(tcp(service)) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert ADMIN_SERVICE_NAME in await services_at(channel)


async def test_what_only_this_machine_reaches_needs_a_token_only_if_there_is_one(
    start: Start, token_file: Path
) -> None:
    service = await start(listen="127.0.0.1:0", insecure=False)
    assert await list_engines(tcp(service)) is grpc.StatusCode.OK
    guarded = await start(listen="127.0.0.1:0", insecure=False, admin_token_file=token_file)
    assert await list_engines(tcp(guarded)) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_replaced_token_is_used_at_once_and_a_lost_one_lets_nobody_in(
    start: Start, token_file: Path
) -> None:
    service = await start(admin_token_file=token_file)
    token_file.write_text("another-token-just-as-long")
    assert await list_engines(tcp(service), f"Bearer {TOKEN}") is grpc.StatusCode.UNAUTHENTICATED
    assert await list_engines(tcp(service), "Bearer another-token-just-as-long") is grpc.StatusCode.OK
    token_file.unlink()
    assert await list_engines(tcp(service), f"Bearer {TOKEN}") is grpc.StatusCode.PERMISSION_DENIED
    assert service._admin_guard.denied_by_cause["token_file_unusable"] == 1


async def test_an_address_of_its_own_takes_admin_away_from_the_engines(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "operators" / "admin.sock"
    service = await start(admin_listen=f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert await list_engines(str(service.admin_address)) is grpc.StatusCode.OK
    for address in (str(service.addresses[0]), tcp(service)):
        assert await list_engines(address) is grpc.StatusCode.UNIMPLEMENTED
    async with grpc.aio.insecure_channel(str(service.admin_address)) as channel:
        # It steers engines, and is none's way in.
        call = channel.stream_stream(f"/{CONTROL_SERVICE_NAME}/Decide")()
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        assert CONTROL_SERVICE_NAME not in await services_at(channel)
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async with connected_engine(str(service.addresses[0]), make_profile(), PHYSICS) as engine:
        await engine.ask(1)
    await service.stop()
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"admin_listen": "0.0.0.0:0"}, ("admin_listen", "0.0.0.0:0", "admin_token_file")),
        (
            {"admin_listen": "0.0.0.0:0", "insecure": False, "listen": "127.0.0.1:0"},
            ("admin_listen", "--insecure"),
        ),
        (
            {"listen": "127.0.0.1:7", "admin_listen": "127.0.0.1:7"},
            ("admin_listen", "127.0.0.1:7", "another"),
        ),
        ({"admin_token_file": Path("/nowhere/token")}, ("admin_token_file", "/nowhere/token", "readable")),
    ],
)
async def test_what_cannot_be_guarded_is_not_started(
    changes: dict[str, Any], words: tuple[str, ...], start: Start
) -> None:
    with pytest.raises(StartError) as refused:
        await start(**changes)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize(
    "content", ["", "short", "with a\nline break in it, long enough", "ümlaute ümlaute ü"]
)
async def test_a_token_that_is_none_is_refused_without_being_shown(
    content: str, start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(StartError, match=f"admin_token_file {file}") as refused:
        await start(admin_token_file=file)
    assert not content or content not in str(refused.value)


async def test_the_command_line_takes_the_token_from_a_file(
    start: Start, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start(admin_token_file=token_file)
    # Set back afterwards, whatever the command puts there.
    monkeypatch.setenv("TURBOSPEC_ADMIN_TOKEN_FILE", "")

    async def status(*options: str) -> Any:
        words = [*options, "status", "--json", "--control-address", tcp(service)]
        return await asyncio.to_thread(CliRunner().invoke, app, words)

    refused = await status()
    assert refused.exit_code == ExitCode.REFUSED
    assert "--token-file" in refused.stderr
    assert (await status("--token-file", str(token_file))).exit_code == ExitCode.DONE
    monkeypatch.setenv("TURBOSPEC_ADMIN_TOKEN_FILE", str(token_file))
    assert (await status()).exit_code == ExitCode.DONE
    monkeypatch.setenv("TURBOSPEC_ADMIN_TOKEN_FILE", "/nowhere/token")
    missing = await status()
    assert missing.exit_code == ExitCode.USAGE
    assert "/nowhere/token" in missing.stderr


async def services_at(channel: grpc.aio.Channel) -> set[str]:
    """What reflection lists."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await call.read()
    return {service.name for service in answer.list_services_response.service}
