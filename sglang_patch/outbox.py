"""What goes out on one stream, and how much may come in: both bounded, whatever the peer does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from sglang_patch.board import Ask
from turbospec.v1.control_pb2 import DecideRequest, EngineProfile, StepRequest

# A duplicated answer is refused and costs little; a peer that sends many more than it was asked for
# would take a core. An ask earns so many answers, a second earns some for what the service pushes.
ANSWERS_AN_ASK: Final = 4
PUSHED_ANSWERS_A_SECOND: Final = 64
ANSWERS_AT_ONCE: Final = 1_024

NS_PER_S: Final = 1_000_000_000


class Outbox:
    """Holds the newest ask that is not sent yet. The service answers the newest only, so a peer that
    does not read holds up one ask, not a queue of old ones."""

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._condition = threading.Condition()
        self._newest: Ask | None = None
        self._closed = False

    def put(self, ask: Ask) -> bool:
        """Never blocks. Returns whether it is the only one: False if it replaced one that never went out."""
        with self._condition:
            alone = self._newest is None
            self._newest = ask
            self._condition.notify()
            return alone

    def close(self) -> None:
        """No more requests: ends ``requests``."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def requests(self) -> Iterator[DecideRequest]:
        """The stream's messages, for gRPC's thread that sends them."""
        yield DecideRequest(profile=self._profile)
        while (ask := self._take()) is not None:
            step_index, batch_size, context_tokens, waiting_requests = ask
            yield DecideRequest(
                step=StepRequest(
                    epoch=self._profile.epoch,
                    step_index=step_index,
                    batch_size=batch_size,
                    context_tokens=context_tokens,
                    waiting_requests=waiting_requests,
                )
            )

    def _take(self) -> Ask | None:
        with self._condition:
            while self._newest is None and not self._closed:
                self._condition.wait()
            ask, self._newest = self._newest, None
            return None if self._closed else ask


class Allowance:
    """How many more answers a stream may bring. Pure: the time is passed in."""

    def __init__(self, now_ns: int) -> None:
        self._left = float(ANSWERS_AT_ONCE)
        self._now_ns = now_ns

    def asked(self) -> None:
        self._left = min(self._left + ANSWERS_AN_ASK, ANSWERS_AT_ONCE)

    def answered(self, now_ns: int) -> bool:
        """Count an answer; returns whether it was within what is allowed."""
        earned = (now_ns - self._now_ns) / NS_PER_S * PUSHED_ANSWERS_A_SECOND
        self._left = min(self._left + earned, ANSWERS_AT_ONCE) - 1.0
        self._now_ns = now_ns
        return self._left >= 0.0
