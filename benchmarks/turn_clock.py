"""A clock that stands still while a server is stopped between its slices of a turn.

A server that is stopped in the middle of a step must not take the pause for the step's duration, and what its
clients time must not have pauses in it. The benchmark owns the clock; the server's processes read it from a
file that both have mapped: how long they have been stopped so far is written before they go on.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

# Environment variable with the path of a server's clock.
VARIABLE: Final = "TURBOSPEC_BENCH_TURN_CLOCK"
WORD_BYTES: Final = 8


class TurnClock:
    """Time of one server, as its benchmark keeps it."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._paused_ns = map_words(path, 1)
        self._stopped_at_ns: int | None = None

    def stop(self) -> None:
        """The server has been stopped."""
        if self._stopped_at_ns is None:
            self._stopped_at_ns = time.monotonic_ns()

    def go(self) -> None:
        """The server is about to go on."""
        if self._stopped_at_ns is not None:
            self._paused_ns[0] += time.monotonic_ns() - self._stopped_at_ns
            self._stopped_at_ns = None

    def now_s(self) -> float:
        """Seconds since some moment, those left out in which the server was stopped."""
        now_ns = time.monotonic_ns() if self._stopped_at_ns is None else self._stopped_at_ns
        return (now_ns - self._paused_ns[0]) / 1e9


def reader(path: Path) -> Callable[[], int]:
    """A `monotonic_ns` by the clock at `path`, for the server."""
    paused_ns, monotonic_ns = map_words(path, 1), time.monotonic_ns

    newest_ns = 0

    def turn_ns() -> int:
        nonlocal newest_ns
        while True:
            paused, now_ns = paused_ns[0], monotonic_ns()
            # Otherwise there was a stop in between, which only one of the two knows of.
            if paused_ns[0] == paused:
                # A server runs on for some microseconds after it was told to stop: they come again.
                newest_ns = max(newest_ns, now_ns - paused)
                return newest_ns

    return turn_ns


def install() -> None:
    """Have everything in this process that reads `time.monotonic_ns` from now on read the server's clock.

    That is our step thread. Deadlines of others (`time.monotonic`, the kernel's) stay what they are.
    """
    if path := os.environ.get(VARIABLE):
        time.monotonic_ns = reader(Path(path))


def map_words(path: Path, count: int) -> memoryview[int]:
    """A file of so many words, as memory that all who map it share; made if it is not there, of zeros."""
    with path.open("a+b") as file:
        file.truncate(count * WORD_BYTES)
        return memoryview(mmap.mmap(file.fileno(), count * WORD_BYTES)).cast("q")
