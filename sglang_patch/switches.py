"""The operator's hand on the engine itself, whatever a service says: kill switch and mode.

``TURBOSPEC_KILL_SWITCH=1`` holds for the life of the process, the file named by
``TURBOSPEC_KILL_FILE`` for as long as it exists. ``TURBOSPEC_MODE`` is the engine's
mode; while the file named by ``TURBOSPEC_MODE_FILE`` exists, its content is. One thread
looks at the files, because the step thread does no I/O.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from sglang_patch.modes import MODES_ALLOWED, EngineMode, parse_mode

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2
# Longer than any mode: what is longer is none.
MODE_FILE_MAX_BYTES: Final = 64


class Switches:
    """``killed`` and ``mode`` are plain attributes; ``changed`` is called once either has changed."""

    def __init__(self, *, kill: bool, kill_file: str, mode: EngineMode, mode_file: str) -> None:
        self.killed = kill
        self.mode = mode
        self.changed: Callable[[], None] = _nothing
        self._always_killed = kill
        self._kill_file = kill_file
        self._mode_by_default = mode
        self._mode_file = mode_file
        self._complaint = ""
        self._closing = threading.Event()
        if kill:
            logger.warning("turbospec: kill switch engaged by TURBOSPEC_KILL_SWITCH; length 0")
        # Looked at once before the first step: a file that is there already must hold for it.
        self._look()

    def start(self) -> None:
        if (self._kill_file and not self._always_killed) or self._mode_file:
            threading.Thread(target=self._watch, name="turbospec-switches", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def _watch(self) -> None:
        while not self._closing.wait(POLL_S):
            self._watch_once()

    def _watch_once(self) -> None:
        try:
            self._look()
        except Exception:
            # Whatever it is, it must not end the thread: the kill switch would be dead.
            logger.exception("turbospec: failed to look at the switches")

    def _look(self) -> None:
        killed = self._always_killed or bool(self._kill_file and os.path.exists(self._kill_file))
        mode = self._mode_now()
        if (killed, mode) == (self.killed, self.mode):
            return
        if killed != self.killed:
            word = "engaged" if killed else "released"
            logger.warning("turbospec: kill switch %s by %s", word, self._kill_file)
        if mode != self.mode:
            logger.warning("turbospec: mode %s, by %s", mode, self._mode_file)
        self.killed, self.mode = killed, mode
        self.changed()

    def _mode_now(self) -> EngineMode:
        """What the file says; without one, the environment; if it cannot be understood, the mode so far."""
        if not self._mode_file:
            return self._mode_by_default
        try:
            with open(self._mode_file, "rb") as file:
                content = file.read(MODE_FILE_MAX_BYTES + 1)
        except FileNotFoundError:
            self._complaint = ""
            return self._mode_by_default
        except OSError as error:
            return self._keep(error.strerror or str(error))
        try:
            if len(content) > MODE_FILE_MAX_BYTES:
                raise ValueError(content)
            mode = parse_mode(content.decode().strip())
        except ValueError:
            return self._keep(f"{content!r} is not usable: allowed is {MODES_ALLOWED}")
        self._complaint = ""
        return mode

    def _keep(self, complaint: str) -> EngineMode:
        """The mode so far, with one line a complaint."""
        if complaint != self._complaint:
            self._complaint = complaint
            logger.error(
                "turbospec: TURBOSPEC_MODE_FILE=%s: %s; mode stays %s", self._mode_file, complaint, self.mode
            )
        return self.mode


def _nothing() -> None:
    """Nobody is to be told."""
