"""Child processes that are started, watched and stopped as whole trees."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_GRACE_S = 10.0
KILL_GRACE_S = 5.0
STOP_POLL_S = 0.05
LOG_TAIL_LINES = 25


class ProcessFailed(RuntimeError):
    """A child process did not do its part; the message ends with the last lines it logged."""


class ManagedProcess:
    """One child with everything below it, its output in a log file."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._stopped = False
        with log_path.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches us only, and we stop it in order.
            self._child = subprocess.Popen(
                argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def failure(self, what: str) -> ProcessFailed:
        """An error saying `what` happened, with the end of the log."""
        state = "is running" if self.alive else f"ended with status {self._child.returncode}"
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return ProcessFailed(
            "\n  ".join([f"{self.name} {what} (it {state}); {self.log_path} ends with:", *lines])
        )

    def require_alive(self) -> None:
        """Raises ProcessFailed if the child has ended."""
        if not self.alive:
            raise self.failure("has stopped")

    def reins(self, *, spare: str | None = None, only: str | None = None) -> Reins:
        """The tree as it is now, to be stopped and let go on.

        spare, only: a word; programs with it in their command are left out, or are all there is.
        """
        words = [(process.pid, _command(process)) for process in self.members()]
        return Reins(
            [pid for pid, command in words if spare not in command and (only is None or only in command)]
        )

    def pin(self, word: str, core: int) -> None:
        """Keep the main threads of programs named `word` on one core.

        Raises:
            ProcessFailed: there is no such program in the tree.
        """
        named = [process for process in self.members() if word in _command(process)]
        for process in named:
            os.sched_setaffinity(process.pid, {core})
        if not named:
            raise self.failure(f"has no {word}")

    def signal_stop(self) -> None:
        """Ask it to end, without waiting; whatever of it is stopped goes on."""
        for process in self.members():
            _signal(process, signal.SIGCONT)
        if self.alive:
            self._child.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the whole tree: politely, then by force. Returns when none of it is left."""
        if self._stopped:  # its process id may be somebody else's by now
            return
        tree = self.members()
        self.signal_stop()
        _wait_for_end(tree, STOP_GRACE_S)
        # Looked up again: what was started meanwhile, or left behind by a child that crashed, goes too.
        left = self.members()
        for process in left:
            _signal(process, signal.SIGKILL)
        _wait_for_end(left, KILL_GRACE_S)
        self._child.wait()
        self._stopped = True

    def members(self) -> list[psutil.Process]:
        """All of our child's session: a walk down the tree would miss the orphans of a crashed parent."""
        return [process for process in psutil.process_iter() if _session_of(process.pid) == self.pid]


class Reins:
    """Stops some processes in their tracks (SIGSTOP) and lets them go on, within microseconds."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._descriptors = [os.pidfd_open(pid) for pid in pids]

    def stop(self) -> None:
        self._send(signal.SIGSTOP)

    def go(self) -> None:
        self._send(signal.SIGCONT)

    def close(self) -> None:
        """Let them go on, for good."""
        self.go()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _send(self, number: signal.Signals) -> None:
        for descriptor in self._descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)


def stop_all(processes: Sequence[ManagedProcess]) -> None:
    """Stop all of them, at the same time as far as they go along."""
    for process in processes:
        process.signal_stop()
    deadline_s = time.monotonic() + STOP_GRACE_S
    while time.monotonic() < deadline_s and any(process.alive for process in processes):
        time.sleep(STOP_POLL_S)
    for process in processes:
        process.stop()


@dataclass(frozen=True, slots=True)
class CpuMeter:
    """Processor time used on this machine, ours and everybody's, up to one moment, in seconds."""

    at_s: float
    busy_s: float
    ours_s: float

    @classmethod
    def read(cls, processes: Sequence[ManagedProcess]) -> CpuMeter:
        """`ours` is this process and the trees of `processes`."""
        sessions = {process.pid for process in processes}
        ours_s = sum(
            _cpu_s(process)
            for process in psutil.process_iter()
            if process.pid == os.getpid() or _session_of(process.pid) in sessions
        )
        times = psutil.cpu_times()
        return cls(time.monotonic(), times.user + times.nice + times.system, ours_s)

    def foreign_cores(self, later: CpuMeter) -> float:
        """Cores that others kept busy on average between two readings."""
        passed_s = later.at_s - self.at_s
        foreign_s = (later.busy_s - self.busy_s) - (later.ours_s - self.ours_s)
        return max(0.0, foreign_s / passed_s) if passed_s > 0 else 0.0


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _wait_for_end(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Return when they have ended, or after so long.

    An orphan that nobody reaps has ended too: psutil would wait for it to be gone.
    """
    deadline_s = time.monotonic() + seconds
    while any(map(_runs, processes)) and time.monotonic() < deadline_s:
        time.sleep(STOP_POLL_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _command(process: psutil.Process) -> list[str]:
    """Its words; none if it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
