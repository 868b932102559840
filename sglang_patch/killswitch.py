"""The operator's hand on the engine itself: no speculation, whatever a service says.

``TURBOSPEC_KILL_SWITCH=1`` holds for the life of the process; the file named by
``TURBOSPEC_KILL_FILE`` holds for as long as it exists. A thread looks for the file,
because the step thread does no I/O.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Final

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2


class KillSwitch:
    """``engaged`` is one attribute read."""

    def __init__(self, *, always: bool, path: str) -> None:
        self.engaged = always
        self._path = path
        self._watching = bool(path) and not always
        self._closing = threading.Event()
        if always:
            logger.warning("turbospec: kill switch engaged by TURBOSPEC_KILL_SWITCH; length 0")
        elif self._watching:
            # Looked at once before the first step: a file that is there already must hold for it.
            self._look()

    def start(self) -> None:
        if self._watching:
            threading.Thread(target=self._watch, name="turbospec-killswitch", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def _watch(self) -> None:
        while not self._closing.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        there = os.path.exists(self._path)
        if there != self.engaged:
            self.engaged = there
            logger.warning("turbospec: kill switch %s by %s", "engaged" if there else "released", self._path)
