"""Mutual TLS from three files, which may be replaced while the service runs.

gRPC asks for the certificates before every handshake: a look at the files' times is enough to know
whether they were replaced. Connections that are open already keep what they began with.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import grpc
import structlog

from control_service.server.errors import StartError

_log = structlog.get_logger(__name__)


class TlsFilesError(StartError):
    """Files that make no usable identity; the text names them and why."""


class TlsFiles(NamedTuple):
    """PEM files: the service's certificate chain and key, and the authorities of its clients."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path


# Of each file: modified at (ns), size in bytes, inode. None while one of them cannot be seen.
_Signature = tuple[tuple[int, int, int], ...] | None


class TlsIdentity:
    """Who the service is to its clients, and whom it lets in.

    `reloads_total` and `reload_errors_total` count replacements of the files that were taken up, and
    those that could not be used, in which case what was there before goes on.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises TlsFilesError if the files cannot be used."""
        self._files = files
        self.reloads_total = 0
        self.reload_errors_total = 0
        # Seen last, usable or not: a broken replacement is tried once, not at every handshake.
        self._seen = _signature(files)
        self._current = _load(files)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of one port; each port needs its own. Clients must show a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, self._fetcher(), require_client_authentication=True
        )

    def _fetcher(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        """Called by gRPC before each handshake, in a thread of its own; None: nothing has changed."""
        given = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self._reload_if_replaced()
            if self._current is given:
                return None
            given = self._current
            return given

        return fetch

    def _reload_if_replaced(self) -> None:
        signature = _signature(self._files)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._current = _load(self._files)
        except TlsFilesError as error:
            self.reload_errors_total += 1
            _log.warning("tls_files_not_reloaded", reason=str(error))
        else:
            self.reloads_total += 1
            _log.info("tls_files_reloaded", cert_file=str(self._files.cert_file))


def _signature(files: TlsFiles) -> _Signature:
    try:
        found = [path.stat() for path in files]
    except OSError:
        return None
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)


def _load(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """What gRPC needs of the files, checked by OpenSSL first: gRPC would fail handshake by handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password to give, OpenSSL would ask the terminal for one.
        context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise TlsFilesError(
            f"tls_cert_file {files.cert_file}, tls_key_file {files.key_file}: {_reason(error)};"
            " must be a PEM certificate chain and its key, without a password"
        ) from error
    try:
        context.load_verify_locations(files.client_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsFilesError(
            f"tls_client_ca_file {files.client_ca_file}: {_reason(error)}; must hold PEM certificates"
        ) from error
    pair = (files.key_file.read_bytes(), files.cert_file.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], files.client_ca_file.read_bytes())


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
