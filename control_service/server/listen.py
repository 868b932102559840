"""gRPC servers as this service wants them: which addresses, with which credentials, within which limits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import grpc

from control_service.server.address import Address, AddressError, parse_addresses, prepare_unix_socket
from control_service.server.tls import TlsIdentity
from control_service.settings import ServiceSettings

PRIVATE_UMASK = 0o177
# Calls that are no decision stream: exports, admin, health, reflection.
OTHER_RPCS_MAX = 256
# A peer may probe us as often as this without being sent away.
PEER_KEEPALIVE_MIN_MS = 1_000


class Listener:
    """One gRPC server and the addresses it is bound to; none before `bind`.

    TCP is mutual TLS if there is an identity; a Unix socket is plain, and guarded by its mode.
    """

    def __init__(
        self, server: grpc.aio.Server, wanted: Sequence[Address], identity: TlsIdentity | None
    ) -> None:
        self.server = server
        self._wanted = tuple(wanted)
        self._identity = identity
        self.addresses: tuple[Address, ...] = ()

    def bind(self) -> None:
        """Listen at all addresses. Raises AddressError; some may be bound by then."""
        for address in self._wanted:
            self.addresses = (*self.addresses, self._bind(address))

    def remove_sockets(self) -> None:
        """Once the server has stopped."""
        for address in self.addresses:
            if address.is_unix:
                Path(address.path).unlink(missing_ok=True)

    def _bind(self, address: Address) -> Address:
        if address.is_unix:
            prepare_unix_socket(address.path)
        before = os.umask(PRIVATE_UMASK) if address.is_unix else None
        try:
            port = self._add_port(address)
        except RuntimeError as error:
            raise AddressError(f"{address}: cannot listen there ({error})") from error
        finally:
            if before is not None:
                os.umask(before)
        return address if address.is_unix else address.with_port(port)

    def _add_port(self, address: Address) -> int:
        port: int
        if address.is_unix or self._identity is None:
            port = self.server.add_insecure_port(str(address))
        else:
            port = self.server.add_secure_port(str(address), self._identity.server_credentials())
        return port


def make_server(
    settings: ServiceSettings, interceptors: Sequence[grpc.aio.ServerInterceptor]
) -> grpc.aio.Server:
    """A server without services that bounds what any peer can take, and notices peers that are gone."""
    keepalive_timeout_ms = round(settings.keepalive_timeout_s * 1e3)
    return grpc.aio.server(
        interceptors=interceptors,
        maximum_concurrent_rpcs=settings.streams_max + OTHER_RPCS_MAX,
        options=[
            ("grpc.max_receive_message_length", settings.message_max_bytes),
            ("grpc.max_send_message_length", settings.message_max_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1e3)),
            ("grpc.keepalive_timeout_ms", keepalive_timeout_ms),
            # Pings have a timeout of their own, a minute, which would be the one that counts.
            ("grpc.http2.ping_timeout_ms", keepalive_timeout_ms),
            # An engine may be idle for hours: silence is no reason to end its stream, death is.
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", PEER_KEEPALIVE_MIN_MS),
        ],
    )


def wanted_addresses(settings: ServiceSettings) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """Addresses for engines, and for operators alone (empty: the same). Raises AddressError."""
    engines = parse_addresses(settings.listen)
    admin = parse_addresses(settings.admin_listen) if settings.admin_listen else ()
    for setting, addresses in (("listen", engines), ("admin_listen", admin)):
        for address in addresses:
            if not (address.is_loopback or settings.insecure or settings.tls_files is not None):
                raise AddressError(
                    f"{setting}: {address}: plain-text TCP beyond loopback is refused; use a Unix socket,"
                    " give tls_cert_file, tls_key_file and tls_client_ca_file, or pass --insecure"
                )
    if any(address in engines and (address.is_unix or address.port) for address in admin):
        raise AddressError(f"admin_listen: {settings.admin_listen} is also in listen; must be another")
    if settings.admin_token_file is None and any(not address.is_loopback for address in admin):
        raise AddressError(
            f"admin_listen: {settings.admin_listen} is beyond loopback; admin_token_file must be given for it"
        )
    return engines, admin
