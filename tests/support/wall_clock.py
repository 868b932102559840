"""A wall clock that a test can set, for processes that are started with it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".cpp")
TRIED_S: Final = 1_000
_OFFSET: Final = struct.Struct("=q")


class WallClock:
    """Seconds by which the wall clock of its processes is off; their monotonic clock stays true."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self._library = directory / "wall_clock.so"
        self.set(0)
        subprocess.run(
            ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE)],
            check=True,
        )
        self._try()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CHAOS_WALL_CLOCK": str(self._file)}

    def set(self, offset_s: int) -> None:
        """A jump, at once and for all of them."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, _OFFSET.pack(offset_s), 0)
        finally:
            os.close(descriptor)

    def _try(self) -> None:
        """A preload that takes no effect would make every test that uses it pass."""
        self.set(-TRIED_S)
        told = subprocess.run(
            [sys.executable, "-c", "import time; print(time.time())"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        self.set(0)
        if time.time() - float(told.stdout) < TRIED_S:
            raise RuntimeError(f"{self._library} does not turn the clock of a process it is preloaded into")
