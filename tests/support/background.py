"""A program that runs beside a test, with its output kept and its end made sure of."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.wait import eventually

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class Background:
    """One process at a time; it can be killed, paused and started again."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        is_ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = list(command)
        self._log = log
        self._is_ready = is_ready
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it is ready. Raises RuntimeError with its last words if it is not in time."""
        with self._log.open("ab") as log:
            self._process = process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        ready = eventually(lambda: process.poll() is not None or self._is_ready(), START_TIMEOUT_S)
        if not ready or process.poll() is not None:
            self.stop()
            raise RuntimeError(f"{self._command[0]} is not ready:\n{self._log.read_text()[-4000:]}")

    def kill(self) -> None:
        """No farewell of any kind."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)

    def pause(self) -> None:
        """It is there, and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """After `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Politely, then not; nothing if it has ended."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
