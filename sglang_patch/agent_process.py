"""Keeps the agent running; one thread that sleeps until the agent ends."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from typing import Final

from sglang_patch.board import Board
from sglang_patch.order import Order

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 0.5
LAST_BACKOFF_S: Final = 30.0


class AgentProcess:
    """Starts the agent, and again whenever it ends. Without one, steps run at length 0."""

    def __init__(self, order: Order, board: Board) -> None:
        self._order = order
        self._board = board
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        # The agent asks the kernel to end it with the thread that started it: that is this one.
        self._thread = threading.Thread(target=self._run, name="turbospec-agent", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Have the agent end; it sends what it still has. Does not wait for it."""
        self._closing.set()
        if self._process is not None:
            self._process.terminate()

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._closing.is_set():
            started_s = time.monotonic()
            try:
                ended = f"ended with {self._run_once()}"
            except OSError as error:
                # No memory for a process, or it was gone before it could be told what to do.
                ended = f"could not be started: {error}"
            self._board.disconnect()
            if self._closing.is_set():
                return
            if time.monotonic() - started_s > LAST_BACKOFF_S:
                backoff_s = FIRST_BACKOFF_S
            logger.error("turbospec: the agent %s; length 0; again in %.1f s", ended, backoff_s)
            self._closing.wait(backoff_s)
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)

    def _run_once(self) -> int:
        """Run one agent to its end; returns its exit code."""
        with subprocess.Popen(
            [sys.executable, "-m", "sglang_patch.agent"],
            stdin=subprocess.PIPE,
            pass_fds=(self._board.descriptor,),
            text=True,
        ) as self._process:
            if self._closing.is_set():
                # Closed while it was being started: nobody else would tell it.
                self._process.terminate()
            assert self._process.stdin is not None
            self._process.stdin.write(self._order.dump())
            self._process.stdin.close()
            return self._process.wait()
