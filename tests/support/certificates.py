"""A certificate authority of the tests' own, and certificates it has signed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import grpc
import trustme
from cryptography import x509

HOST = "localhost"


class Issued(NamedTuple):
    """PEM of a certificate and its key."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Replace both files as `name`.pem and `name`.key; their paths."""
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, content in zip(paths, self, strict=True):
            partial = path.with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(path)
        return paths


class Authority:
    """An authority that lives as long as a test."""

    def __init__(self, name: str = "tests") -> None:
        self._authority = trustme.CA(organization_name=name)
        self.pem = self._authority.cert_pem.bytes()

    def issue(self, name: str) -> Issued:
        """A certificate for this machine, good for either end of a connection."""
        issued = self._authority.issue_cert("127.0.0.1", HOST, common_name=name)
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        return Issued(chain, issued.private_key_pem.bytes())

    def client_credentials(self, identity: Issued | None) -> grpc.ChannelCredentials:
        """Trusts this authority; shows `identity`, if any."""
        if identity is None:
            return grpc.ssl_channel_credentials(self.pem)
        return grpc.ssl_channel_credentials(self.pem, identity.key, identity.certificate)

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server that wants to see the certificate of whoever connects."""
        certificate, key = self.issue("server")
        return grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=self.pem, require_client_auth=True
        )


class AuthorityFiles(Authority):
    """The same on disk, as an engine is told of it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(self.pem)

    def engine_environment(self, name: str = "engine") -> dict[str, str]:
        """Issued anew under the same name, the files take the place of the old ones."""
        certificate, key = self.issue(name).write(self._directory, name)
        return {
            "TURBOSPEC_TLS_CA_FILE": str(self.ca_file),
            "TURBOSPEC_TLS_CERT_FILE": str(certificate),
            "TURBOSPEC_TLS_KEY_FILE": str(key),
        }


def serial_number(pem: bytes) -> int:
    """By which a certificate is told from its successor."""
    return x509.load_pem_x509_certificate(pem).serial_number
