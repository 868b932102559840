"""Keeps the agent running; one thread that sleeps until the agent ends."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import Final

from sglang_patch.board import Board
from sglang_patch.order import Order

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 0.5
LAST_BACKOFF_S: Final = 30.0
STOP_TIMEOUT_S: Final = 3.0


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
        """End the agent; it sends what it still has."""
        self._closing.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._closing.is_set():
            with subprocess.Popen(
                [sys.executable, "-m", "sglang_patch.agent"],
                stdin=subprocess.PIPE,
                pass_fds=(self._board.descriptor,),
                text=True,
            ) as self._process:
                assert self._process.stdin is not None
                self._process.stdin.write(self._order.dump())
                self._process.stdin.close()
                code = self._process.wait()
            self._board.disconnect()
            if self._closing.is_set():
                return
            logger.error("turbospec: the agent ended with %d; length 0; again in %.1f s", code, backoff_s)
            self._closing.wait(backoff_s)
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
