"""Starts programs, waits until they are healthy, keeps them going, and stops them all."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Final, Self

from control_service.cli.errors import CliError, ExitCode
from control_service.cli.processes import Child

POLL_S: Final = 0.2
FAILURE_LINES: Final = 20
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
# A program that lived this long has not failed because of how it was started.
SETTLED_S: Final = 60.0

Say = Callable[[str], None]


class StopRequest:
    """SIGINT, SIGTERM and SIGHUP as something to look at: once is asked to stop, twice is asked to hurry."""

    SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._count = 0
        self._event = threading.Event()

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self._event.set()

    @property
    def made(self) -> bool:
        return self._count > 0

    @property
    def urgent(self) -> bool:
        return self._count > 1

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is made, at most `timeout_s`; whether it is."""
        return self._event.wait(timeout_s)


@dataclass
class Member:
    """A child under supervision."""

    child: Child
    ready: Callable[[], bool]
    # Without an essential member the rest is pointless; any other is started again when it ends.
    essential: bool
    stop_grace_s: float
    healthy: bool = False
    restarts: int = field(default=0, init=False)
    started_s: float = field(default=0.0, init=False)
    restart_at_s: float | None = field(default=None, init=False)


class Supervisor:
    """Owns its members' processes from `start` to `stop`."""

    def __init__(self, members: Sequence[Member], stop_request: StopRequest, say: Say) -> None:
        self._members = tuple(members)
        self._stop_request = stop_request
        self._say = say

    @property
    def members(self) -> tuple[Member, ...]:
        return self._members

    def start(self) -> None:
        for member in self._members:
            self._start(member)

    def wait_healthy(self, timeout_s: float, on_poll: Callable[[], None]) -> bool:
        """Wait until every member is; False if asked to stop before.

        Raises `CliError` if one ends, or is not healthy after `timeout_s` seconds.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._stop_request.wait(POLL_S):
            for member in self._members:
                if not member.child.running:
                    raise _failure(member.child, f"ended while starting ({member.child.how_it_ended()})")
                member.healthy = member.healthy or member.ready()
            on_poll()
            waiting = [member for member in self._members if not member.healthy]
            if not waiting:
                return True
            if time.monotonic() > deadline_s:
                raise _failure(waiting[0].child, f"is not healthy after {timeout_s:.0f} s (--start-timeout)")
        return False

    def supervise(self, on_poll: Callable[[], None]) -> None:
        """Return when asked to stop. Raises `CliError` when an essential member ends."""
        while not self._stop_request.wait(POLL_S):
            for member in self._members:
                if member.child.running:
                    self._welcome_back(member)
                elif member.essential:
                    raise _failure(member.child, f"ended ({member.child.how_it_ended()})")
                else:
                    self._restart(member)
            on_poll()

    def stop(self) -> None:
        """Stop all members, the last first, and see to it that nothing of them is left."""
        for member in reversed(self._members):
            if member.child.stop(member.stop_grace_s, lambda: self._stop_request.urgent):
                self._say(f"{member.child.name} did not stop by itself and was killed")

    def _start(self, member: Member) -> None:
        member.healthy = False
        member.restart_at_s = None
        member.started_s = time.monotonic()
        member.child.start()

    def _welcome_back(self, member: Member) -> None:
        if not member.healthy and member.ready():
            member.healthy = True
            self._say(f"{member.child.name} is back")

    def _restart(self, member: Member) -> None:
        now_s = time.monotonic()
        if member.restart_at_s is None:
            if now_s - member.started_s > SETTLED_S:
                member.restarts = 0
            delay_s = min(BACKOFF_FIRST_S * 2**member.restarts, BACKOFF_MAX_S)
            member.restarts += 1
            member.restart_at_s = now_s + delay_s
            member.healthy = False
            self._say(
                f"{member.child.name} ended ({member.child.how_it_ended()}); "
                f"starting it again in {delay_s:g} s; its log: {member.child.log}"
            )
        elif now_s >= member.restart_at_s:
            self._start(member)


def _failure(child: Child, what: str) -> CliError:
    lines = [f"{child.name} {what}; the end of {child.log}:", *child.last_lines(FAILURE_LINES)]
    return CliError("\n  ".join(lines), ExitCode.CHILD_FAILED)
