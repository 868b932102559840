"""What the user asked `turbospec up` for, checked before anything is started."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from control_service.cli.errors import CliError, ExitCode, usage_error

NO_SPECULATION: Final = "NONE"
DRAFT_ALGORITHMS: Final = ("EAGLE", "EAGLE3", "STANDALONE")
ALGORITHMS: Final = (*DRAFT_ALGORITHMS, "NGRAM", NO_SPECULATION)
DEVICES: Final = ("auto", "cpu", "cuda")
MAX_CANDIDATES: Final = 16
MAX_NUM_STEPS: Final = 64
# The kernel's limit on a socket's path, less the terminating zero.
MAX_SOCKET_PATH_BYTES: Final = 107


@dataclass(frozen=True)
class UpOptions:
    """One run of `turbospec up`, every field usable as it is."""

    model: str
    algorithm: str | None
    draft: str | None
    candidates: tuple[int, ...]
    device: str
    host: str
    port: int
    control_address: str
    metrics_port: int
    run_dir: Path
    mode: str
    sglang_flags: tuple[str, ...]

    @property
    def endpoint(self) -> str:
        """Where a client on this machine reaches SGLang."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"


def parse_candidates(text: str) -> tuple[int, ...]:
    """`"0,1,2,3,5"` as lengths. Raises `CliError`."""
    allowed = (
        f"two to {MAX_CANDIDATES} lengths, ascending, 0 first, none above {MAX_NUM_STEPS}, as in 0,1,2,3,5"
    )
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise usage_error("--candidates", text, allowed)
    lengths = tuple(int(part) for part in text.split(","))
    ascending = all(first < second for first, second in pairwise(lengths))
    fits = 2 <= len(lengths) <= MAX_CANDIDATES and lengths[-1] <= MAX_NUM_STEPS
    if lengths[0] != 0 or not ascending or not fits:
        raise usage_error("--candidates", text, allowed)
    return lengths


def parse_choice(option: str, text: str, choices: tuple[str, ...]) -> str:
    """The choice that `text` means, whatever its case. Raises `CliError`."""
    for choice in choices:
        if text.lower() == choice.lower():
            return choice
    raise usage_error(option, text, ", ".join(choices))


def parse_control_address(text: str | None, run_dir: Path) -> str:
    """Where the service is to listen: a socket in the run directory unless `text` says otherwise."""
    address = text or f"unix:{run_dir / 'control.sock'}"
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/"):
            raise usage_error("--control-address", address, "unix:/absolute/path or host:port")
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            limit = f"a socket path of at most {MAX_SOCKET_PATH_BYTES} bytes (or host:port)"
            raise usage_error("--control-address", address, limit)
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise usage_error("--control-address", address, "unix:/absolute/path or host:port")
    return address


def parse_sglang_flags(words: list[str]) -> tuple[str, ...]:
    """What stands after `--`. Raises `CliError` for a stray word before it."""
    if words and not words[0].startswith("-"):
        raise CliError(
            f"unexpected argument {words[0]!r}; flags for SGLang go after --, as in: "
            "turbospec up -- --max-running-requests 8",
            ExitCode.USAGE,
        )
    return tuple(words)


def usable_port(option: str, host: str, port: int) -> int:
    """`port` if it is free, any free one for 0. Raises `CliError`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"a free port of {host} (this one: {error.strerror}), or 0 for any"
            raise usage_error(option, port, reason) from None
        chosen: int = probe.getsockname()[1]
    return chosen


def resolve_device(device: str) -> str:
    """`auto` becomes cuda if the driver lists a GPU, else cpu."""
    if device != "auto":
        return device
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listed = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, text=True)
    return "cuda" if listed.returncode == 0 and "GPU " in listed.stdout else "cpu"
