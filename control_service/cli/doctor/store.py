"""The file in which the service keeps what it has learned."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from control_service.cli.doctor.finding import Findings, ok, problem, warning
from control_service.cli.doctor.subject import Subject
from control_service.settings import ServiceSettings
from control_service.store.sqlite import SCHEMA_VERSION

# A save needs a few megabytes at most, also with every key in use.
FREE_MIN_BYTES: Final = 64 << 20
BUSY_TIMEOUT_S: Final = 2.0
ELSEWHERE: Final = "or keep it elsewhere: TURBOSPEC_SERVICE_STORE"


def check(subject: Subject) -> Findings:
    """Whether it can be read and written; nothing is changed."""
    try:
        store = ServiceSettings().store
    except ValidationError:
        yield warning("store", "not checked: the service's settings cannot be used", "see service settings")
        return
    if not store:
        yield ok("store", "none: nothing is kept across restarts of the service")
        return
    path = Path(store)
    if not path.is_absolute():
        # A URL may carry a password.
        yield ok("store", "not a file; not checked")
        return
    try:
        exists = path.exists()
    except OSError as error:
        yield problem("store", f"{path}: {error.strerror}", f"correct the path, {ELSEWHERE}")
        return
    yield from _file(path) if exists else _missing(path)
    yield from _space(path)


def _missing(path: Path) -> Findings:
    nearest = _nearest(path)
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        yield ok("store", f"{path} will be made when there is something to keep")
    else:
        what = "cannot be written" if nearest.is_dir() else "is no directory"
        yield problem("store", f"{path} cannot be made: {nearest} {what}", f"correct that, {ELSEWHERE}")


def _file(path: Path) -> Findings:
    fix = "the service sets a damaged file aside and begins a new one"
    try:
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            # Takes the lock that a save takes.
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            keys = connection.execute("SELECT count(*) FROM learned").fetchone()[0] if version else 0
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if _is_damaged(error):
            yield problem("store", f"{path} is damaged: {error}", f"nothing, {fix}; or remove it")
        else:
            yield problem("store", f"{path} cannot be written: {error}", f"correct its rights, {ELSEWHERE}")
        return
    if version not in (0, SCHEMA_VERSION):
        message = f"{path} has schema version {version}, this turbospec knows {SCHEMA_VERSION}"
        yield problem("store", message, f"use the turbospec that made it, remove it, {ELSEWHERE}")
    elif verdict != "ok":
        yield problem("store", f"{path} is damaged: {verdict}", f"remove it, or {fix}")
    else:
        size = path.stat().st_size / 1024
        yield ok("store", f"{path}, version {version}, {keys} engine profiles, {size:.0f} KiB")


def _space(path: Path) -> Findings:
    free = shutil.disk_usage(_nearest(path)).free
    message = f"{free / 2**30:.1f} GiB free where the store is"
    if free < FREE_MIN_BYTES:
        yield problem("disk space", message, f"free {FREE_MIN_BYTES >> 20} MiB at least, {ELSEWHERE}")
    else:
        yield ok("disk space", message)


def _nearest(path: Path) -> Path:
    """The path itself, or the first above it that exists."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
