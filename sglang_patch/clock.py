"""The two clocks the engine side reads, in one place so that tests can turn them."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic_ns(self) -> int: ...

    def unix_ns(self) -> int: ...


class SystemClock:
    """The machine's clocks. Durations and deadlines only ever use the monotonic one."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    unix_ns = staticmethod(time.time_ns)
