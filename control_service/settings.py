"""Every setting of the service, in one place: unit, default, bounds and meaning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from control_service.server.address import Address, parse_addresses


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
    metrics_listen: Annotated[
        str, Field(description="host:port of the Prometheus endpoint (port 0: any); empty: none")
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
        Literal["off", "shadow", "enforce"],
        Field(description="mode of engines that connect for the first time"),
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
    message_max_bytes: Annotated[
        int, Field(ge=4_096, le=64 << 20, description="largest gRPC message taken, in bytes")
    ] = 4 << 20
    shutdown_grace_s: Annotated[
        float, Field(ge=0.0, le=60.0, description="seconds that open calls get to end at shutdown")
    ] = 1.0
    store: Annotated[
        str,
        Field(description="SQLite file that keeps what was learned across restarts; empty: nothing is kept"),
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

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: str) -> str:
        if value and not Path(value).expanduser().is_absolute():
            raise ValueError(f"{value!r} is not allowed; must be an absolute path, or empty")
        return str(Path(value).expanduser()) if value else ""

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
