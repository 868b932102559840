"""One child program with everything below it: started in a session of its own, watched, and stopped whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from control_service.cli import tether

TAIL_BYTES: Final = 64 * 1024
KILL_WAIT_S: Final = 5.0
POLL_S: Final = 0.05


class Child:
    """A program, its log file, and its process tree.

    In its own session a Ctrl-C in the terminal does not reach it: it is stopped by us, in order. It gets
    SIGTERM if we die without stopping it.
    """

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        log.write_bytes(b"")

    def start(self) -> None:
        """Start it, or start it anew after it ended; its log goes on."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", tether.__file__, str(os.getpid()), *self._argv],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def how_it_ended(self) -> str:
        """`exit code 3` or `killed by SIGKILL`. Only after it has ended."""
        assert self._process is not None
        code = self._process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def last_lines(self, count: int) -> list[str]:
        """The end of its log."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-count:]

    def request_stop(self) -> None:
        """Send SIGTERM to the program alone; it knows how to stop what it has started."""
        if self._process is not None and self.running:
            self._process.terminate()

    def stop(self, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """End the whole tree; returns when none of it is left, and whether that took force.

        The program has `grace_s` seconds to stop by itself, or until `hurry` says otherwise.
        """
        if self._process is None:
            return False
        tree = self._tree()
        self.request_stop()
        deadline_s = time.monotonic() + grace_s
        while self.running and time.monotonic() < deadline_s and not hurry():
            time.sleep(POLL_S)
        forced = self.running
        self._kill_rest(tree)
        self._process.wait()
        return forced

    def _tree(self) -> set[psutil.Process]:
        """The program, its descendants, and whatever else is of its session (a parent may have died)."""
        members = {process for process in psutil.process_iter() if _session(process.pid) == self.pid}
        try:
            root = psutil.Process(self.pid)
            return members | {root, *root.children(recursive=True)}
        except psutil.NoSuchProcess:
            return members

    def _kill_rest(self, tree: set[psutil.Process]) -> None:
        # Twice: a process may have been born between our look and its parent's end.
        for left in (tree | self._tree(), self._tree()):
            for process in left:
                _kill(process)
            deadline_s = time.monotonic() + KILL_WAIT_S
            while any(map(_alive, left)) and time.monotonic() < deadline_s:
                time.sleep(POLL_S)


class LogFollower:
    """Hands on what is added to a child's log, line by line, each marked with the child's name."""

    def __init__(self, child: Child, write: Callable[[str], None]) -> None:
        self._child = child
        self._write = write
        self._position = 0
        self._partial = ""

    def pump(self) -> None:
        with self._child.log.open("rb") as log:
            log.seek(self._position)
            added = log.read()
        self._position += len(added)
        *lines, self._partial = (self._partial + added.decode(errors="replace")).split("\n")
        for line in lines:
            self._write(f"[{self._child.name}] {line}")


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _alive(process: psutil.Process) -> bool:
    """Whether it still runs: a zombie that nobody has buried yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return -1
