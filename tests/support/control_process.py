"""The real control service as a process of its own, to be killed and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.wait import eventually


class ControlProcess:
    """``python -m control_service`` on a socket below ``directory``."""

    def __init__(
        self, directory: Path, *, valid_for_steps: int = 16, metrics_listen: str = "127.0.0.1:0"
    ) -> None:
        self._directory = directory
        self._metrics_listen = metrics_listen
        self._ready = directory / "control.ready"
        self._valid_for_steps = valid_for_steps
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix:{directory}/service.sock"

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "TURBOSPEC_SERVICE_LISTEN": self.address,
            "TURBOSPEC_SERVICE_METRICS_LISTEN": self._metrics_listen,
            "TURBOSPEC_SERVICE_LEASE_VALID_FOR_STEPS": str(self._valid_for_steps),
        }
        with (self._directory / "control.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "control_service", "--ready-file", str(self._ready)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not eventually(self._ready.exists, 60):
            raise TimeoutError((self._directory / "control.log").read_text())

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

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(10)
