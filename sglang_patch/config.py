"""The engine side's settings, read once from ``TURBOSPEC_*`` environment variables.

An environment variable that cannot be parsed stops the engine at start: a typo must
not leave somebody believing that speculation is under control.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from sglang_patch.addresses import ADDRESS_FORM, TlsFiles, is_plain_remote, parse_address, parse_addresses

if TYPE_CHECKING:
    from sglang_patch.modes import EngineMode

T = TypeVar("T")

MAX_CANDIDATES: Final = 16
MAX_NUM_STEPS: Final = 64


class ConfigError(ValueError):
    """A setting that cannot be used; says which, its value and what is allowed."""

    def __init__(self, field: str, value: str, allowed: str) -> None:
        super().__init__(f"{field}={value!r} is not usable: allowed is {allowed}")
        self.field = field


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What one SGLang scheduler process needs to know to be controlled."""

    # Where the control service listens; several replicas are separated by commas.
    control_address: str
    # Where step records go; a collector may sit there. Empty: to the replica that holds the decision stream.
    otlp_address: str
    # PEM files for mutual TLS over TCP, all three or none. Who signs the service's certificate.
    tls_ca_file: str
    # Our certificate, for mutual TLS.
    tls_cert_file: str
    # The key of our certificate.
    tls_key_file: str
    # Allow TCP beyond loopback without TLS: anyone on the path can steer this engine.
    insecure: bool
    # Empty: host name and port of the endpoint.
    engine_id: str
    # Lengths the engine may run. Empty: those of 0, 1, 2, 3, 5, 7 below the launch length, and that.
    candidates: tuple[int, ...]
    # "enforce" obeys the service, "canary:P" in P % of blocks of steps; "shadow" and "off" hold the launch
    # length whatever it says. The more careful of this and the service's own mode holds.
    mode: EngineMode
    # While this file exists its content is the mode. Empty: no such file.
    mode_file: str
    # Longest time a step waits for an answer that is not there yet.
    step_deadline_us: int
    # No speculation for the life of the process.
    kill_switch: bool
    # While this file exists the engine does not speculate. Empty: no such file.
    kill_file: str
    # Exit instead of running unpatched when SGLang is not what the plugin expects.
    strict: bool
    # Step records kept while nobody takes them; beyond that the newest are dropped and counted.
    ring_size: int
    # How often step records are sent; fewer than 8 small ones wait up to five times as long.
    export_interval_ms: int

    @property
    def tls(self) -> TlsFiles | None:
        """The files for TLS; None if it is not used."""
        if not self.tls_ca_file:
            return None
        return TlsFiles(self.tls_ca_file, self.tls_cert_file, self.tls_key_file)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> EngineConfig | None:
        """Settings of this process, or None if ``TURBOSPEC_CONTROL_ADDRESS`` is unset.

        Raises:
            ConfigError: a variable holds what it must not, or is not one of ours.
        """
        known = {f"TURBOSPEC_{field.name.upper()}" for field in fields(cls)}
        if not env.get("TURBOSPEC_CONTROL_ADDRESS"):
            return None
        # Only now: an engine without us must not pay for our imports.
        from sglang_patch.modes import MODES_ALLOWED, parse_mode  # noqa: PLC0415

        for name in env:
            if name.startswith("TURBOSPEC_") and not name.startswith(_FOREIGN) and name not in known:
                raise ConfigError(name, env[name], f"one of {', '.join(sorted(known))}")

        def read(name: str, default: str, parse: Callable[[str], T], allowed: str) -> T:
            text = env.get(name, "").strip() or default
            try:
                return parse(text)
            except ValueError:
                raise ConfigError(name, text, allowed) from None

        config = cls(
            control_address=read(
                "TURBOSPEC_CONTROL_ADDRESS", "", parse_addresses, f"{ADDRESS_FORM}, or several with commas"
            ),
            otlp_address=read("TURBOSPEC_OTLP_ADDRESS", "", _optional_address, ADDRESS_FORM),
            tls_ca_file=read("TURBOSPEC_TLS_CA_FILE", "", _readable, _READABLE_FORM),
            tls_cert_file=read("TURBOSPEC_TLS_CERT_FILE", "", _readable, _READABLE_FORM),
            tls_key_file=read("TURBOSPEC_TLS_KEY_FILE", "", _readable, _READABLE_FORM),
            insecure=read("TURBOSPEC_INSECURE", "0", _flag, "0 or 1"),
            engine_id=read("TURBOSPEC_ENGINE_ID", "", _name, "at most 128 printable characters"),
            candidates=read(
                "TURBOSPEC_CANDIDATES",
                "",
                _candidates,
                f"ascending lengths from 0 to {MAX_NUM_STEPS}, 0 first",
            ),
            mode=read("TURBOSPEC_MODE", "enforce", parse_mode, MODES_ALLOWED),
            mode_file=env.get("TURBOSPEC_MODE_FILE", "").strip(),
            step_deadline_us=read("TURBOSPEC_STEP_DEADLINE_US", "2000", _integer(0, 100_000), "0 to 100000"),
            kill_switch=read("TURBOSPEC_KILL_SWITCH", "0", _flag, "0 or 1"),
            kill_file=env.get("TURBOSPEC_KILL_FILE", "").strip(),
            strict=read("TURBOSPEC_STRICT", "0", _flag, "0 or 1"),
            ring_size=read("TURBOSPEC_RING_SIZE", "1024", _integer(16, 65_536), "16 to 65536"),
            export_interval_ms=read("TURBOSPEC_EXPORT_INTERVAL_MS", "100", _integer(5, 60_000), "5 to 60000"),
        )
        config._check_security()
        return config

    def _check_security(self) -> None:
        """TLS wholly or not at all, and nothing in plain text beyond this machine unless it is meant.

        Raises:
            ConfigError: naming the variable that is wrong or missing.
        """
        files = {name: getattr(self, name.removeprefix("TURBOSPEC_").lower()) for name in _TLS_VARIABLES}
        missing = [name for name, path in files.items() if not path]
        if missing and len(missing) < len(files):
            raise ConfigError(
                missing[0], "", f"a file, because {_first_set(files)} is set too: all three or none"
            )
        if self.insecure or self.tls is not None:
            return
        for name, text in (
            ("TURBOSPEC_CONTROL_ADDRESS", self.control_address),
            ("TURBOSPEC_OTLP_ADDRESS", self.otlp_address),
        ):
            if any(map(is_plain_remote, text.split(","))):
                raise ConfigError(
                    name,
                    text,
                    f"a Unix socket or loopback, or any address with {', '.join(_TLS_VARIABLES)}, "
                    "or with TURBOSPEC_INSECURE=1: without TLS anyone on the path can steer this engine",
                )


_TLS_VARIABLES: Final = ("TURBOSPEC_TLS_CA_FILE", "TURBOSPEC_TLS_CERT_FILE", "TURBOSPEC_TLS_KEY_FILE")
_READABLE_FORM: Final = "the path of a file that can be read"
# Variables of the control service and of the tools around both.
_FOREIGN: Final = (
    "TURBOSPEC_SERVICE_",
    "TURBOSPEC_ADMIN_",
    "TURBOSPEC_CACHE_",
    "TURBOSPEC_CPU_",
    "TURBOSPEC_UP_",
    "TURBOSPEC_BENCH_",
)


def _first_set(files: Mapping[str, str]) -> str:
    return next(name for name, path in files.items() if path)


def _readable(text: str) -> str:
    if text and not os.access(text, os.R_OK):
        raise ValueError(text)
    return text


def _optional_address(text: str) -> str:
    return parse_address(text) if text else ""


def _name(text: str) -> str:
    if len(text) <= 128 and text.isprintable():
        return text
    raise ValueError(text)


def _candidates(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    lengths = tuple(int(part) for part in text.split(","))
    ascending = all(a < b for a, b in pairwise(lengths))
    if lengths[0] == 0 and ascending and lengths[-1] <= MAX_NUM_STEPS and len(lengths) <= MAX_CANDIDATES:
        return lengths
    raise ValueError(text)


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if low <= value <= high:
            return value
        raise ValueError(text)

    return parse


def _flag(text: str) -> bool:
    if text in ("0", "1"):
        return text == "1"
    raise ValueError(text)
