"""A clock that tests turn by hand."""

from __future__ import annotations

from collections.abc import Callable


class HandClock:
    """Time passes only while somebody sleeps; ``events`` happen once their time has come."""

    def __init__(self) -> None:
        self.now_ns = 1_000
        self.slept = 0
        self.events: list[tuple[int, Callable[[], None]]] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        self.now_ns += round(seconds * 1e9)
        for at_ns, event in list(self.events):
            if self.now_ns >= at_ns:
                event()
