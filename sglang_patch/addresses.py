"""Addresses of the service as an operator writes them, and the files for speaking TLS to them."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

ADDRESS_FORM: Final = "unix:/absolute/path, host:port or dns:///name:port"
MAX_ADDRESSES: Final = 16

_UNIX: Final = "unix:"
_DNS: Final = "dns:///"


class TlsFiles(NamedTuple):
    """Paths of PEM files: who may be trusted, and who we are."""

    ca: str
    certificate: str
    key: str


def parse_address(text: str) -> str:
    """One address, as gRPC takes it.

    Raises:
        ValueError: it is none of ``ADDRESS_FORM``.
    """
    if text.startswith(_UNIX):
        if text.startswith("unix:/") and "," not in text:
            return text
        raise ValueError(text)
    host, _, port = text.removeprefix(_DNS).rpartition(":")
    if host and not set("/,") & set(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return text
    raise ValueError(text)


def parse_addresses(text: str) -> str:
    """Addresses separated by commas.

    Raises:
        ValueError: one of them is none, one comes twice, or there are too many.
    """
    addresses = [parse_address(part.strip()) for part in text.split(",")]
    if len(set(addresses)) != len(addresses) or len(addresses) > MAX_ADDRESSES:
        raise ValueError(text)
    return ",".join(addresses)


def is_plain_remote(address: str) -> bool:
    """Whether what is said to this address without TLS leaves the machine."""
    if not address or address.startswith(_UNIX):
        return False
    host = address.removeprefix(_DNS).rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
