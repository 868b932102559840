"""Learned state in a SQLite file: nothing to install, safe against a crash at any moment."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from control_service.store.protocol import StoreError

# Of the file's tables, not of the state inside.
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 2.0
# Every new set of launch options is a new key; the longest unused give way.
KEYS_MAX = 256
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
_PRIMARY_CODE = 0xFF
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SIDE_FILES = ("", "-wal", "-shm")
_CREATE = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS learned (key TEXT PRIMARY KEY, saved_at_s REAL NOT NULL, state BLOB NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class SqliteStore:
    """One file, opened when first used and again after a failure.

    A file that SQLite finds damaged is renamed to `<name>.corrupt-<time>` and a new one begun. A file of
    another schema version is left alone and refused. `clock` gives Unix seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._connection: sqlite3.Connection | None = None

    def load(self, key: str) -> bytes | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute("SELECT state FROM learned WHERE key = ?", (key,)).fetchone()
            return bytes(row[0]) if row is not None else None

        return self._with_connection(read)

    def save(self, key: str, state: bytes) -> None:
        """See `Store`."""

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute(
                    "INSERT INTO learned (key, saved_at_s, state) VALUES (?, ?, ?) ON CONFLICT (key)"
                    " DO UPDATE SET saved_at_s = excluded.saved_at_s, state = excluded.state",
                    (key, self._clock(), state),
                )
                connection.execute(
                    "DELETE FROM learned WHERE key NOT IN"
                    " (SELECT key FROM learned ORDER BY saved_at_s DESC LIMIT ?)",
                    (KEYS_MAX,),
                )

        self._with_connection(write)

    def close(self) -> None:
        """See `Store`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                _log.warning("learned_store_not_closed", path=str(self._path), reason=str(error))

    def _with_connection(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            try:
                return action(self._opened())
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._set_aside(str(error))
                return action(self._opened())
        except (sqlite3.Error, OSError) as error:
            # Whatever it was may pass: the next call begins with a new connection.
            self.close()
            raise StoreError(f"{self._path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            # SQLite gives its side files the mode of the file, which must be there for that.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
            connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version != SCHEMA_VERSION and (version, tables) != (0, 0):
            raise StoreError(
                f"{self._path}: schema version {version} is not allowed; must be {SCHEMA_VERSION}"
                " (the file is left as it is)"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        # A power failure may lose the newest save, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        if tables == 0:
            connection.executescript(_CREATE)

    def _set_aside(self, reason: str) -> None:
        self.close()
        aside = f"{self._path}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self._clock()))}"
        for suffix in _SIDE_FILES:
            part = Path(f"{self._path}{suffix}")
            if part.exists():
                part.replace(f"{aside}{suffix}")
        _log.warning("learned_store_set_aside", path=str(self._path), moved_to=aside, reason=reason)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY_CODE in _DAMAGED
