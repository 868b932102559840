"""What a person sees while programs start: a live line on a terminal, now and then a plain one elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.markup import escape

from control_service.cli.supervise import Member

PLAIN_INTERVAL_S: Final = 10.0
LOG_LINE_CHARACTERS: Final = 70


class StartProgress:
    """Call `show` as often as you like."""

    def __init__(self, console: Console, members: Sequence[Member]) -> None:
        self._console = console
        self._members = members
        self._started_s = time.monotonic()
        self._shown_s = self._started_s
        self._announced: set[str] = set()
        self._status = console.status("starting") if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self) -> None:
        elapsed_s = time.monotonic() - self._started_s
        for member in self._members:
            if member.healthy and member.child.name not in self._announced:
                self._announced.add(member.child.name)
                self._console.print(
                    f"{member.child.name} is healthy after {elapsed_s:.0f} s", highlight=False
                )
        waiting = [member for member in self._members if not member.healthy]
        if not waiting:
            return
        last = "".join(waiting[0].child.last_lines(1)).strip()[:LOG_LINE_CHARACTERS]
        line = f"waiting for {waiting[0].child.name}, {elapsed_s:.0f} s: {escape(last)}"
        if self._status is not None:
            self._status.update(line)
        elif time.monotonic() - self._shown_s > PLAIN_INTERVAL_S:
            self._shown_s = time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True)
