"""The state of an engine's link to the service, as an operator sees it. Pure: the time is passed in.

Leases come and go with single steps; a state is worth a line in the log. So a link is
stale only once no lease has held for a quarter of a second.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from turbospec.v1.telemetry import LINK_STATES

CONNECTING, FRESH, STALE, OPEN, DISABLED = range(len(LINK_STATES))

STALE_AFTER_NS: Final = 250_000_000
_WITHOUT_LEASE: Final = {FRESH: FRESH, STALE: STALE, OPEN: STALE}


class Seen(NamedTuple):
    """How things are at one moment."""

    disabled: bool
    # There is a stream, and the engine has asked for something.
    connected: bool
    breaker_open: bool
    # A lease covers the step at hand.
    holds: bool
    # An ask waits for its answer for longer than it should.
    late: bool


class LinkState:
    """Owner of the state; ``current`` changes only in ``update``."""

    def __init__(self) -> None:
        self.current = CONNECTING
        self._without_lease_since_ns: int | None = None

    def update(self, now_ns: int, seen: Seen) -> bool:
        """Take in how things are. Returns whether the state has changed."""
        before = self.current
        self.current = self._next(now_ns, seen)
        return self.current != before

    def _next(self, now_ns: int, seen: Seen) -> int:
        if seen.disabled or not seen.connected or seen.holds:
            self._without_lease_since_ns = None
        elif self._without_lease_since_ns is None:
            self._without_lease_since_ns = now_ns
        if seen.disabled:
            return DISABLED
        if not seen.connected:
            return CONNECTING
        if seen.breaker_open:
            return OPEN
        if seen.holds:
            return FRESH
        since_ns = self._without_lease_since_ns
        if seen.late or (since_ns is not None and now_ns - since_ns >= STALE_AFTER_NS):
            return STALE
        # Not for long yet: a fresh link is still fresh, one that has just come up is still connecting.
        return _WITHOUT_LEASE.get(self.current, CONNECTING)
