"""Channels to the service: plain on this machine, mutual TLS and a token where the environment says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import grpc

from control_service.cli.errors import CliError, ExitCode

# The engine's own variables: where both ends of a service are run by one hand, they share the files.
TLS_VARIABLES: Final = ("TURBOSPEC_TLS_CA_FILE", "TURBOSPEC_TLS_CERT_FILE", "TURBOSPEC_TLS_KEY_FILE")
TOKEN_VARIABLE: Final = "TURBOSPEC_ADMIN_TOKEN_FILE"


def open_channel(address: str, environment: Mapping[str, str] = os.environ) -> grpc.Channel:
    """A channel to `unix:/path` or `host:port`. Raises `CliError` for files that cannot be used."""
    if address.startswith("unix:"):
        return grpc.insecure_channel(address)
    files = {name: environment.get(name) for name in TLS_VARIABLES}
    missing = [name for name, path in files.items() if not path]
    if len(missing) == len(files):
        return grpc.insecure_channel(address)
    if missing:
        message = f"{', '.join(TLS_VARIABLES)}: all of them or none; not set: {', '.join(missing)}"
        raise CliError(message, ExitCode.USAGE)
    authority, certificate, key = (_read(name, str(path)) for name, path in files.items())
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.secure_channel(address, credentials)


def admin_metadata(environment: Mapping[str, str] = os.environ) -> tuple[tuple[str, str], ...]:
    """What admin calls carry: the token, if a file with one is named. Raises `CliError`."""
    path = environment.get(TOKEN_VARIABLE)
    if not path:
        return ()
    try:
        token = _read(TOKEN_VARIABLE, path).decode("ascii").strip()
    except UnicodeDecodeError:
        raise CliError(f"{TOKEN_VARIABLE} is {path!r}, which holds no token", ExitCode.USAGE) from None
    return (("authorization", f"Bearer {token}"),)


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        message = f"{name} is {path!r}, which cannot be read: {error.strerror}"
        raise CliError(message, ExitCode.USAGE) from error
