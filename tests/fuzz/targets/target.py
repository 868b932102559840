"""What a target is."""

from __future__ import annotations

from typing import Protocol

from tests.fuzz.mutate import Mutator


class Target(Protocol):
    """Takes any bytes. Raises what it must not raise, or AssertionError if an invariant is broken."""

    def seeds(self) -> list[bytes]: ...

    def spoil(self, data: bytes, mutator: Mutator) -> bytes:
        """Another message to feed, made of this one."""

    def feed(self, data: bytes) -> None: ...
