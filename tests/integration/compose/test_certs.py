"""`make certs`: certificates that OpenSSL and gRPC take, for the sides that they are for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.compose_file import ROOT


def make(directory: Path, *names: str) -> str:
    command = [str(ROOT / "scripts/certs.sh"), str(directory), *names]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def openssl(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *words], check=False, capture_output=True, text=True, cwd=directory)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certs")
    make(directory, "control.example.com", "192.0.2.7", "2001:db8::7")
    return directory


@pytest.mark.parametrize(
    ("name", "purpose", "other"),
    [("control", "sslserver", "sslclient"), ("engine", "sslclient", "sslserver")],
)
def test_each_side_is_what_it_is_and_not_the_other(certs: Path, name: str, purpose: str, other: str) -> None:
    verify = ["verify", "-CAfile", "ca.crt", "-x509_strict", "-purpose"]
    assert openssl(certs, *verify, purpose, f"{name}.crt").returncode == 0
    assert openssl(certs, *verify, other, f"{name}.crt").returncode != 0


def test_the_service_is_known_by_every_name_that_was_given(certs: Path) -> None:
    verify = ["verify", "-CAfile", "ca.crt"]
    for name in ("control", "localhost", "control.example.com"):
        assert openssl(certs, *verify, "-verify_hostname", name, "control.crt").returncode == 0, name
    for address in ("127.0.0.1", "192.0.2.7", "2001:db8::7"):
        assert openssl(certs, *verify, "-verify_ip", address, "control.crt").returncode == 0, address
    assert openssl(certs, *verify, "-verify_hostname", "elsewhere.example.com", "control.crt").returncode != 0


def test_keys_are_for_their_group_at_most_and_the_authority_for_its_owner(certs: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in certs.iterdir()}
    assert modes == {
        "ca.key": 0o600,
        "ca.crt": 0o640,
        "ca.srl": 0o640,
        **{f"{side}.{kind}": 0o640 for side in ("control", "engine") for kind in ("key", "crt")},
    }


def test_renewal_keeps_the_authority(certs: Path) -> None:
    before = {name: (certs / name).read_bytes() for name in ("ca.crt", "control.crt", "engine.key")}
    said = make(certs)
    after = {name: (certs / name).read_bytes() for name in before}
    assert after["ca.crt"] == before["ca.crt"]
    assert after["control.crt"] != before["control.crt"]
    assert after["engine.key"] != before["engine.key"]
    assert f"CERTS_GID={(certs / 'control.key').stat().st_gid}" in said
