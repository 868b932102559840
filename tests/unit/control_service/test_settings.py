"""Settings that cannot be used are refused by name, with their value and what is allowed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from control_service import __main__
from control_service.core.mode_spelling import parse_mode
from control_service.core.types import Mode
from control_service.settings import ServiceSettings


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"mode": "canary:0"}, "mode", ("canary:0", "canary:P", "1 to 99")),
        ({"mode": "canary:100"}, "mode", ("canary:100", "enforce")),
        ({"mode": "canary:+5"}, "mode", ("canary:+5",)),
        ({"mode": "ON"}, "mode", ("'ON'", "off, shadow")),
        ({"store": "learned.sqlite3"}, "store", ("learned.sqlite3", "absolute path", "redis://")),
        ({"store": "http://host/0"}, "store", ("http://host/0", "redis://", "rediss://")),
        ({"store": "redis:///0"}, "store", ("redis:///0",)),
        ({"store": "redis://host:nonsense/0"}, "store", ("redis://",)),
        ({"store": "redis://host/0?nonsense=1"}, "store", ("redis://host/0", "after '?'")),
        ({"admin_listen": "nonsense"}, "admin_listen", ("nonsense", "host:port")),
        (
            {"admin_listen": "127.0.0.1:1,127.0.0.1:2"},
            "admin_listen",
            ("127.0.0.1:1,127.0.0.1:2", "one address"),
        ),
        ({"tls_cert_file": Path("/a")}, "tls_client_ca_file", ("missing: tls_key_file, tls_client_ca_file",)),
        ({"tls_client_ca_file": Path("/a")}, "tls_client_ca_file", ("missing: tls_cert_file, tls_key_file",)),
        ({"keepalive_s": 0.1}, "keepalive_s", ("greater than or equal to 1",)),
        ({"requests_per_s": 0}, "requests_per_s", ("greater than or equal to 1",)),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    changes: dict[str, Any], field: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(**changes)
    (error,) = refused.value.errors()
    assert error["loc"] == (field,)
    assert all(word in f"{error['msg']} {error['input']}" for word in words), error


@pytest.mark.parametrize(
    ("text", "mode", "percent"),
    [
        ("off", Mode.OFF, 0),
        ("shadow", Mode.SHADOW, 0),
        ("canary:1", Mode.CANARY, 1),
        ("canary:99", Mode.CANARY, 99),
        ("enforce", Mode.ENFORCE, 0),
    ],
)
def test_every_mode_can_be_that_of_new_engines(text: str, mode: Mode, percent: int) -> None:
    assert parse_mode(ServiceSettings(mode=text).mode) == (mode, percent)


@pytest.mark.parametrize(
    "store",
    [
        "",
        "/var/lib/turbospec/learned.sqlite3",
        "redis://host",
        "rediss://user:secret@host:6380/1",
        "unix:///run/redis.sock?db=2",
    ],
)
def test_stores_that_can_be_named(store: str) -> None:
    assert ServiceSettings(store=store).store == store


def test_a_variable_that_is_set_to_nothing_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE", "ADMIN_TOKEN_FILE"):
        monkeypatch.setenv(f"TURBOSPEC_SERVICE_{name}", "")
    settings = ServiceSettings()
    assert (settings.tls_files, settings.admin_token_file) == (None, None)


def test_a_password_is_not_shown_with_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--store", "redis://user:s3cret@host:0/0"]) == 2
    said = capsys.readouterr().err
    assert "store" in said
    assert "redis://host:0/0" in said
    assert "s3cret" not in said


def test_without_the_redis_client_a_redis_store_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ValidationError, match=r"pip install 'turbospec\[redis\]'"):
        ServiceSettings(store="redis://host:6379/0")
