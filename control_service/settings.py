"""Every setting of the service, in one place: unit, default, bounds and meaning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from control_service.core import mode_spelling
from control_service.server.address import Address, parse_addresses
from control_service.server.tls import TlsFiles
from control_service.store.open import check_location


def default_socket_path() -> Path:
    """Below the user's runtime directory, else below a directory of the user's own in /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime else Path(f"/tmp/turbospec-{os.getuid()}")
    return base / "turbospec" / "control.sock"


def default_listen() -> str:
    """A Unix socket of the user's own."""
    return f"unix:{default_socket_path()}"


def default_store() -> str:
    """Below the user's state directory; none for a user without a home."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        base = Path(state) if state else Path.home() / ".local" / "state"
    except RuntimeError:
        return ""
    return str(base / "turbospec" / "learned.sqlite3")


class ServiceSettings(BaseSettings):
    """Read from TURBOSPEC_SERVICE_* and from flags of the same names; flags win."""

    model_config = SettingsConfigDict(
        env_prefix="TURBOSPEC_SERVICE_",
        cli_prog_name="python -m control_service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        extra="forbid",
    )

    listen: Annotated[
        str,
        Field(description="gRPC addresses, comma separated: unix:/absolute/path or host:port (port 0: any)"),
    ] = Field(default_factory=default_listen)
    insecure: Annotated[
        bool,
        Field(
            description="allow plain-text TCP beyond loopback; anyone who reaches the port can steer engines"
        ),
    ] = False
    tls_cert_file: Annotated[
        Path | None,
        Field(description="PEM certificate chain of the service: mutual TLS on every TCP address"),
    ] = None
    tls_key_file: Annotated[
        Path | None, Field(description="PEM key of that certificate, without a password")
    ] = None
    tls_client_ca_file: Annotated[
        Path | None,
        Field(description="PEM certificates of who signs clients; others are refused"),
    ] = None
    admin_listen: Annotated[
        str,
        Field(
            description="one address, unix:/absolute/path or host:port, where alone admin rpcs are served;"
            " empty: where `listen` says"
        ),
    ] = ""
    admin_token_file: Annotated[
        Path | None,
        Field(description="file with the token that admin rpcs need over TCP; never needed on a Unix socket"),
    ] = None
    metrics_listen: Annotated[
        str, Field(description="host:port of the page and the Prometheus metrics (port 0: any); empty: none")
    ] = "127.0.0.1:9464"
    otlp_metrics_endpoint: Annotated[
        str,
        Field(
            description="push the same metrics there over OTLP/gRPC: http://host:port (plain text) or https://;"
            " empty: no"
        ),
    ] = ""
    otlp_metrics_interval_s: Annotated[
        float, Field(ge=0.1, le=3_600.0, description="seconds between those pushes")
    ] = 15.0
    ready_file: Annotated[
        Path | None,
        Field(description="write the bound addresses there as JSON once serving; removed at exit"),
    ] = None
    mode: Annotated[
        str,
        Field(description=f"mode of engines that connect for the first time: {mode_spelling.FORMS}"),
    ] = "enforce"
    lease_valid_for_steps: Annotated[
        int, Field(ge=1, le=1_000, description="decode steps a lease holds; 1 is strict per-step control")
    ] = 16
    lease_valid_for_ms: Annotated[
        int, Field(ge=1, le=600_000, description="milliseconds a lease holds after its receipt")
    ] = 1_000
    decisions_kept: Annotated[
        int, Field(ge=1, le=100_000, description="decisions kept per engine for explanation")
    ] = 1_024
    engines_max: Annotated[int, Field(ge=1, le=10_000, description="engines known at once")] = 64
    streams_max: Annotated[int, Field(ge=1, le=10_000, description="decision streams open at once")] = 128
    streams_per_engine_per_minute: Annotated[
        int, Field(ge=1, le=60_000, description="decision streams one engine id may open in a minute")
    ] = 120
    requests_per_s: Annotated[
        int,
        Field(
            ge=1, le=1_000_000, description="step requests taken of one stream in a second; more are dropped"
        ),
    ] = 2_000
    spans_per_s: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="decode-step spans taken of one engine in a second"),
    ] = 5_000
    keepalive_s: Annotated[
        float,
        Field(ge=1.0, le=7_200.0, description="seconds of silence after which a connection is probed"),
    ] = 20.0
    keepalive_timeout_s: Annotated[
        float, Field(ge=0.1, le=600.0, description="seconds until a connection that does not answer is dead")
    ] = 10.0
    message_max_bytes: Annotated[
        int, Field(ge=4_096, le=64 << 20, description="largest gRPC message taken, in bytes")
    ] = 4 << 20
    shutdown_grace_s: Annotated[
        float, Field(ge=0.0, le=60.0, description="seconds that open calls get to end at shutdown")
    ] = 1.0
    store: Annotated[
        str,
        Field(
            description="keeps what was learned: a SQLite file, or redis://host:port/db (rediss://,"
            " unix:///socket?db=0) that services share; empty: nothing is kept"
        ),
    ] = Field(default_factory=default_store)
    store_save_interval_s: Annotated[
        float, Field(ge=0.1, le=3_600.0, description="seconds between saves of what has changed")
    ] = 10.0
    log_format: Annotated[Literal["json", "console"], Field(description="shape of a log line")] = "console"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="least severe level logged")
    ] = "info"

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        parse_addresses(value)
        return value

    @field_validator(
        "tls_cert_file", "tls_key_file", "tls_client_ca_file", "admin_token_file", "ready_file", mode="before"
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """A variable that is set to nothing names no file."""
        return None if value == "" else value

    @field_validator("tls_client_ca_file")
    @classmethod
    def _check_tls_files(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        """The last of the three, which sees all."""
        files = {name: info.data.get(name) for name in ("tls_cert_file", "tls_key_file")}
        files["tls_client_ca_file"] = value
        missing = [name for name, path in files.items() if path is None]
        if 0 < len(missing) < len(files):
            raise ValueError(
                "tls_cert_file, tls_key_file and tls_client_ca_file must be given together, or none of them;"
                f" missing: {', '.join(missing)}"
            )
        return value

    @field_validator("admin_listen")
    @classmethod
    def _check_admin_listen(cls, value: str) -> str:
        if value and len(parse_addresses(value)) > 1:
            raise ValueError(f"{value!r} is not allowed; must be one address, or empty")
        return value

    @field_validator("mode")
    @classmethod
    def _check_mode(cls, value: str) -> str:
        mode_spelling.parse_mode(value)
        return value

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: str) -> str:
        return check_location(value)

    @field_validator("metrics_listen")
    @classmethod
    def _check_metrics_listen(cls, value: str) -> str:
        if value and Address.parse(value).is_unix:
            raise ValueError(f"{value!r} is a Unix socket; must be host:port")
        return value

    @field_validator("otlp_metrics_endpoint")
    @classmethod
    def _check_otlp_metrics_endpoint(cls, value: str) -> str:
        url = urlsplit(value)
        if value and (url.scheme not in {"http", "https"} or not url.netloc or url.path.strip("/")):
            raise ValueError(f"{value!r} is not allowed; must be http://host:port or https://host:port")
        return value

    @property
    def tls_files(self) -> TlsFiles | None:
        """All three files; None for plain text."""
        if self.tls_cert_file is None or self.tls_key_file is None or self.tls_client_ca_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)
