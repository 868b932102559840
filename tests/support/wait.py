"""Waiting for what other threads and processes do, with an end."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    """Whether the condition becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
