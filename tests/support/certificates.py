"""A certificate authority of the test's own, and certificates it has signed."""

from __future__ import annotations

from pathlib import Path

import grpc
import trustme


class Authority:
    """Issues certificates for ``127.0.0.1`` and ``localhost``, on both ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key; issued again under the same name they take the place of the old ones."""
        issued = self._authority.issue_cert("127.0.0.1", "localhost")
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        key.write_bytes(issued.private_key_pem.bytes())
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        return certificate, key

    def engine_environment(self, name: str = "engine") -> dict[str, str]:
        certificate, key = self.issue(name)
        return {
            "TURBOSPEC_TLS_CA_FILE": str(self.ca_file),
            "TURBOSPEC_TLS_CERT_FILE": str(certificate),
            "TURBOSPEC_TLS_KEY_FILE": str(key),
        }

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server that wants to see the certificate of whoever connects."""
        certificate, key = self.issue("server")
        return grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates=self.ca_file.read_bytes(),
            require_client_auth=True,
        )
