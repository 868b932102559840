"""A real redis-server of a test's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from tests.support.wait import eventually


class RedisServer:
    """Listens on a free port of loopback and on a Unix socket; keeps nothing on disk."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.socket = directory / "redis.sock"
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{self.socket}?db=0"
        self._log = directory / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it empty, on the same port each time."""
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed: make setup-test"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program, "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not eventually(self._answers, 20):
            raise TimeoutError(self._log.read_text())

    def kill(self) -> None:
        """No farewell of any kind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False
