"""The real control service as a process of its own, to be killed, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.wait import eventually


class ControlProcess:
    """``python -m control_service`` on a socket below ``directory``.

    ``environment`` is added to ours; ``wrapper`` is a command that executes the service in its place.
    """

    def __init__(
        self,
        directory: Path,
        *,
        valid_for_steps: int = 16,
        metrics_listen: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self._directory = directory
        self._metrics_listen = metrics_listen
        self._ready = directory / "control.ready"
        self._valid_for_steps = valid_for_steps
        self._environment = dict(environment or {})
        self._wrapper = tuple(wrapper)
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = directory / "service.sock"
        self.address = f"unix:{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._directory / "control.log"

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "TURBOSPEC_SERVICE_LISTEN": self.address,
            "TURBOSPEC_SERVICE_METRICS_LISTEN": self._metrics_listen,
            "TURBOSPEC_SERVICE_LEASE_VALID_FOR_STEPS": str(self._valid_for_steps),
            **self._environment,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrapper, sys.executable, "-m", "control_service", "--ready-file", str(self._ready)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not eventually(self._ready.exists, 60):
            raise TimeoutError(self.log.read_text())

    @property
    def page_url(self) -> str:
        """Where the page is served, once started."""
        metrics: str = json.loads(self._ready.read_text())["metrics"]
        return metrics.removesuffix("metrics")

    def kill(self) -> None:
        """SIGKILL: no farewell of any kind."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        """SIGSTOP: it holds its sockets open and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.terminate()
            self._process.wait(10)
