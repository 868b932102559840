"""What a place for learned state must do."""

from __future__ import annotations

from typing import Protocol


class StoreError(Exception):
    """The store cannot do it now; the text says what and why. Nothing is broken for later."""


class Store(Protocol):
    """Bytes by key, newest wins. Calls may block: they are made off the event loop, one at a time."""

    def load(self, key: str) -> bytes | None:
        """What was saved last under the key; None if nothing is. Raises StoreError."""

    def save(self, key: str, state: bytes) -> None:
        """Replace what is kept under the key. Raises StoreError."""

    def close(self) -> None:
        """Let go of everything; never raises."""
