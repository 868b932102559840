"""When Python looks for garbage cycles: seldom in what is old, since everybody waits meanwhile."""

from __future__ import annotations

import gc
from typing import Final

# Nearly all that is allocated for a step is freed by counting references. What is kept of each, the decisions
# worth explaining, grows old in their thousands a second; with the defaults that has all of it looked through
# every few seconds, for a tenth of a second each time.
YOUNG_MAX: Final = 1_000
MIDDLE_EVERY: Final = 10
OLD_EVERY: Final = 1_000


def settle() -> None:
    """Called once the service is up: what is there by now will stay, and is never looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, MIDDLE_EVERY, OLD_EVERY)
