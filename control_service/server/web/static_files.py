"""The page's files: read once, served from memory, so that no path of a request ever reaches the disk."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

ROOT: Final = files(__package__) / "static"
CONTENT_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
INDEX: Final = "index.html"


class StaticFile(NamedTuple):
    """One file as it is sent; the tag changes with the content."""

    body: bytes
    content_type: str
    tag: str


def static_files() -> dict[str, StaticFile]:
    """By path of the URL, `/` the page itself; files of other kinds (licences) stay at home."""
    found = dict(_below(ROOT, "/"))
    found["/"] = found.pop(f"/{INDEX}")
    return found


def _below(directory: Traversable, path: str) -> list[tuple[str, StaticFile]]:
    found: list[tuple[str, StaticFile]] = []
    for entry in directory.iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if entry.is_dir():
            found += _below(entry, f"{path}{entry.name}/")
        elif suffix in CONTENT_TYPES:
            body = entry.read_bytes()
            tag = hashlib.sha256(body).hexdigest()[:32]
            found.append((f"{path}{entry.name}", StaticFile(body, CONTENT_TYPES[suffix], tag)))
    return found
