"""Where the service listens: parsing addresses, and getting a Unix socket ready."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from control_service.server.errors import StartError

# sockaddr_un holds 108 bytes, the last of them zero.
UNIX_PATH_MAX_BYTES = 107


class AddressError(StartError):
    """An address that cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Either a Unix socket path, or a host and port."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `unix:/absolute/path` or `host:port` (`[v6]:port` too)."""
        if text.startswith("unix:"):
            return cls._parse_unix(text.removeprefix("unix:"))
        host, separator, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise AddressError(f"{text!r} is not an address; must be unix:/absolute/path or host:port")
        return cls(host, int(port))

    @classmethod
    def _parse_unix(cls, text: str) -> Address:
        path = "/" + text.lstrip("/") if text.startswith("/") else text
        if not path.startswith("/"):
            raise AddressError(f"'unix:{text}': the path must be absolute")
        if len(os.fsencode(path)) > UNIX_PATH_MAX_BYTES:
            raise AddressError(f"'unix:{text}': the path must have at most {UNIX_PATH_MAX_BYTES} bytes")
        return cls("", 0, path)

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket."""
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def with_port(self, port: int) -> Address:
        """The same host with the port that was bound."""
        return Address(self.host, port)

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_addresses(text: str) -> tuple[Address, ...]:
    """A comma-separated list of at least one address. Raises AddressError."""
    addresses = tuple(Address.parse(part.strip()) for part in text.split(",") if part.strip())
    if not addresses:
        raise AddressError("no address given; must be unix:/absolute/path or host:port")
    fixed = [address for address in addresses if address.is_unix or address.port]
    if len(set(fixed)) != len(fixed):
        raise AddressError(f"{text!r} names an address twice")
    return addresses


def prepare_unix_socket(path: str) -> None:
    """Make room for a socket: private directory, no stale file. Raises AddressError if one is live."""
    file = Path(path)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AddressError(f"unix:{path}: cannot create {file.parent}: {error.strerror}") from error
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"unix:{path}: exists and is not a socket; remove it or choose another path")
    if _is_live(path):
        raise AddressError(f"unix:{path}: another service is listening there; stop it or choose another path")
    file.unlink(missing_ok=True)


def _is_live(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        code = probe.connect_ex(path)
    return code not in (errno.ECONNREFUSED, errno.ENOENT)
