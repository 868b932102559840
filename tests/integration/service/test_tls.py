"""Mutual TLS: who gets in, who does not, and certificates that are replaced while the service runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from control_service.cli.channel import TLS_VARIABLES, TOKEN_VARIABLE
from control_service.cli.errors import ExitCode
from control_service.cli.main import app
from control_service.server.app import ControlService
from control_service.server.errors import StartError
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import Physics, SyntheticEngine, cheap_drafts, make_profile
from tests.support.certificates import HOST, Authority, Issued, serial_number

PHYSICS = Physics(0.8, cheap_drafts)


class Identity:
    """The service's certificate files and those who signed them."""

    def __init__(self, directory: Path) -> None:
        self.servers = Authority("servers")
        self.clients = Authority("clients")
        self._directory = directory
        self.certificate, self.key = self.servers.issue(HOST).write(directory, "service")
        self.client_ca = directory / "clients.pem"
        self.client_ca.write_bytes(self.clients.pem)

    def settings(self, **changes: Any) -> ServiceSettings:
        values: dict[str, Any] = {
            "listen": "0.0.0.0:0",
            "metrics_listen": "",
            "shutdown_grace_s": 0.2,
            "tls_cert_file": self.certificate,
            "tls_key_file": self.key,
            "tls_client_ca_file": self.client_ca,
        }
        return ServiceSettings(**{**values, **changes})

    def rotate(self) -> Issued:
        """A new certificate of the same service, in the same files."""
        issued = self.servers.issue(HOST)
        issued.write(self._directory, "service")
        return issued


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path)


@pytest.fixture
async def service(identity: Identity) -> AsyncIterator[ControlService]:
    running = ControlService(identity.settings())
    await running.start()
    yield running
    await running.stop()


def target(service: ControlService) -> str:
    return f"{HOST}:{service.addresses[0].port}"


async def health_through(
    service: ControlService, credentials: grpc.ChannelCredentials | None
) -> grpc.StatusCode:
    """How a health check on a connection of its own ends."""
    channel = (
        grpc.aio.insecure_channel(target(service))
        if credentials is None
        else grpc.aio.secure_channel(target(service), credentials)
    )
    async with channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def certificate_shown(service: ControlService) -> int:
    """The serial number of what a new connection is shown, whatever becomes of the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((HOST, service.addresses[0].port), 10) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return serial_number(ssl.DER_cert_to_PEM_cert(der).encode())


async def test_an_engine_with_a_certificate_of_ours_is_controlled(
    identity: Identity, service: ControlService
) -> None:
    credentials = identity.servers.client_credentials(identity.clients.issue("engine"))
    async with grpc.aio.secure_channel(target(service), credentials) as channel:
        engine = SyntheticEngine(channel, make_profile(), PHYSICS)
        await engine.introduce()
        await engine.run(20, batch_size=2)
        await engine.flush()
        await engine.close()
    assert engine.rejected_spans == 0
    assert len(engine.leases) == 20


async def test_others_are_refused_in_the_handshake(identity: Identity, service: ControlService) -> None:
    strangers = Authority("strangers")
    refused = {
        "no certificate": identity.servers.client_credentials(None),
        "signed by another authority": identity.servers.client_credentials(strangers.issue("engine")),
        "signed by the servers' authority": identity.servers.client_credentials(
            identity.servers.issue("engine")
        ),
        "does not trust the service": identity.clients.client_credentials(identity.clients.issue("engine")),
        "plain text": None,
    }
    for who, credentials in refused.items():
        assert await health_through(service, credentials) is grpc.StatusCode.UNAVAILABLE, who
    assert len(service.registry) == 0
    good = identity.servers.client_credentials(identity.clients.issue("engine"))
    assert await health_through(service, good) is grpc.StatusCode.OK


async def test_replaced_certificates_are_used_without_a_restart(
    identity: Identity, service: ControlService
) -> None:
    credentials = identity.servers.client_credentials(identity.clients.issue("engine"))
    before = await asyncio.to_thread(certificate_shown, service)
    async with grpc.aio.secure_channel(target(service), credentials) as channel:
        engine = SyntheticEngine(channel, make_profile(), PHYSICS)
        await engine.introduce()
        await engine.ask(1)
        issued = identity.rotate()
        shown = await asyncio.to_thread(certificate_shown, service)
        assert shown == serial_number(issued.certificate) != before
        # Who is connected stays connected.
        await engine.run(3, batch_size=1)
        await engine.close()
    # The authority of the clients can be replaced too: the old one's are out, the new one's in.
    successors = Authority("successors")
    identity.client_ca.write_bytes(successors.pem)
    assert await health_through(service, credentials) is grpc.StatusCode.UNAVAILABLE
    new = identity.servers.client_credentials(successors.issue("engine"))
    assert await health_through(service, new) is grpc.StatusCode.OK
    assert service._tls is not None
    assert (service._tls.reloads_total, service._tls.reload_errors_total) == (2, 0)


async def test_a_replacement_that_cannot_be_used_changes_nothing_and_is_said_once(
    identity: Identity, service: ControlService
) -> None:
    credentials = identity.servers.client_credentials(identity.clients.issue("engine"))
    key = identity.key.read_bytes()
    with capture_logs() as log:
        # Half of a replacement: the certificate is new, its key still the old one's.
        identity.rotate()
        identity.key.write_bytes(key)
        for _ in range(3):
            assert await health_through(service, credentials) is grpc.StatusCode.OK
    said = [line for line in log if line["event"] == "tls_files_not_reloaded"]
    assert len(said) == 1
    assert str(identity.key) in said[0]["reason"]
    assert service._tls is not None
    assert (service._tls.reloads_total, service._tls.reload_errors_total) == (0, 1)
    identity.rotate()
    assert await health_through(service, credentials) is grpc.StatusCode.OK
    assert service._tls.reloads_total == 1


async def test_the_command_line_gets_in_with_a_certificate_and_the_token(
    identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("a-token-of-thirty-two-characters")
    ca_file = tmp_path / "servers.pem"
    ca_file.write_bytes(identity.servers.pem)
    certificate, key = identity.clients.issue("operator").write(tmp_path, "operator")
    files = {
        "--tls-ca-file": ca_file,
        "--tls-cert-file": certificate,
        "--tls-key-file": key,
        "--token-file": token_file,
    }
    for name in (*TLS_VARIABLES, TOKEN_VARIABLE):
        # Set back afterwards, whatever the command puts there.
        monkeypatch.setenv(name, "")
    service = ControlService(identity.settings(admin_token_file=token_file))
    await service.start()

    async def status(options: dict[str, Path]) -> Result:
        words = [word for name, path in options.items() for word in (name, str(path))]
        words += ["status", "--json", "--control-address", target(service)]
        return await asyncio.to_thread(CliRunner().invoke, app, words)

    half = await status({"--tls-ca-file": ca_file})
    assert half.exit_code == ExitCode.USAGE
    assert "not set: TURBOSPEC_TLS_CERT_FILE, TURBOSPEC_TLS_KEY_FILE" in half.stderr
    without_token = await status({name: path for name, path in files.items() if name != "--token-file"})
    assert without_token.exit_code == ExitCode.REFUSED
    assert (await status(files)).exit_code == ExitCode.DONE
    await service.stop()


async def test_a_unix_socket_beside_it_stays_plain(identity: Identity, tmp_path: Path) -> None:
    service = ControlService(identity.settings(listen=f"unix:{tmp_path}/control.sock,127.0.0.1:0"))
    await service.start()
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    await service.stop()


@pytest.mark.parametrize("broken", ["tls_cert_file", "tls_key_file", "tls_client_ca_file"])
@pytest.mark.parametrize("how", ["missing", "no PEM"])
def test_files_that_cannot_be_used_stop_it_by_name(
    broken: str, how: str, identity: Identity, tmp_path: Path
) -> None:
    file = tmp_path / "broken.pem"
    if how == "no PEM":
        file.write_text("nothing of the kind")
    with pytest.raises(StartError, match=rf"{broken} {file}"):
        ControlService(identity.settings(**{broken: file}))


def test_a_key_of_another_certificate_stops_it(identity: Identity, tmp_path: Path) -> None:
    _, other_key = identity.servers.issue(HOST).write(tmp_path, "other")
    with pytest.raises(StartError, match="tls_key_file"):
        ControlService(identity.settings(tls_key_file=other_key))
