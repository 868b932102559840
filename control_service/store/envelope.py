"""Wraps learned state for any store: what it is, of which version, whose, and a checksum.

A line of JSON, then the state as compressed JSON. Nothing in it can run code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

FORMAT = "turbospec.learned"
HEADER_MAX_BYTES = 1_024
STATE_MAX_BYTES = 16 << 20
COMPRESSION_LEVEL = 6


class StateRefusedError(ValueError):
    """Kept state that must not be used; the text names the field, its value and what is allowed."""


def seal(key: str, version: int, state: dict[str, Any]) -> bytes:
    """State as bytes to keep under `key`."""
    body = zlib.compress(
        json.dumps(state, separators=(",", ":"), allow_nan=False).encode(), COMPRESSION_LEVEL
    )
    header = {"format": FORMAT, "version": version, "key": key, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(header).encode() + b"\n" + body


def unseal(key: str, version: int, sealed: bytes) -> dict[str, Any]:
    """The state that was sealed for the same key and version. Raises StateRefusedError."""
    line, newline, body = sealed.partition(b"\n")
    header = _object("header", line) if newline and len(line) <= HEADER_MAX_BYTES else {}
    for field, wanted in (("format", FORMAT), ("version", version), ("key", key)):
        if header.get(field) != wanted:
            raise StateRefusedError(f"{field}: {header.get(field)!r:.80} is not allowed; must be {wanted!r}")
    if header.get("sha256") != hashlib.sha256(body).hexdigest():
        raise StateRefusedError("sha256: does not match the state; it was damaged")
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(body, STATE_MAX_BYTES)
    except zlib.error as error:
        raise StateRefusedError(f"state: cannot be decompressed ({error})") from error
    if not decompressor.eof:
        raise StateRefusedError(f"state: not complete within {STATE_MAX_BYTES} bytes")
    return _object("state", text)


def _object(field: str, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateRefusedError(f"{field}: is not JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise StateRefusedError(f"{field}: {type(value).__name__} is not allowed; must be an object")
    return value
