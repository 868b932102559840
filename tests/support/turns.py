"""Tests in several processes of one run (pytest-xdist): some need the machine for themselves."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """Locks that all processes of a run share: any number of tests at a time, or one that is alone.

    Who wants to be alone holds the door while it waits for the others to leave, so that none of them comes in
    again before it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._door, self._room = (
            os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for name in ("door", "room")
        )

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Have a test run inside the block."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        """Who still runs has the files open."""
        os.close(self._door)
        os.close(self._room)
        shutil.rmtree(self._directory, ignore_errors=True)
