"""What engines did between one look at the service and the next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from turbospec.v1 import admin_pb2

INTERVALS_KEPT: Final = 60


class Interval(NamedTuple):
    """An engine between two looks, in rates by the clock on the wall. NaN where nothing ran."""

    steps_per_s: float
    tokens_per_s: float
    # Mean over the steps.
    num_steps: float
    fallbacks: int


class EngineHistory:
    """The newest intervals of one engine."""

    def __init__(self) -> None:
        self.intervals: deque[Interval] = deque(maxlen=INTERVALS_KEPT)
        self._before: tuple[float, admin_pb2.EngineStatus] | None = None

    @property
    def newest(self) -> Interval | None:
        return self.intervals[-1] if self.intervals else None

    def add(self, at_s: float, status: admin_pb2.EngineStatus) -> None:
        """Take in a look; counters that began anew, of an engine or a service, begin a new interval."""
        before, self._before = self._before, (at_s, status)
        if before is None:
            return
        then_s, then = before
        if then.profile.epoch != status.profile.epoch or status.steps_total < then.steps_total:
            return
        self.intervals.append(_interval(then, status, at_s - then_s))


class Histories:
    """Of every engine that the service knows."""

    def __init__(self) -> None:
        self._engines: dict[str, EngineHistory] = {}

    def add(self, at_s: float, engines: Iterable[admin_pb2.EngineStatus]) -> None:
        """Take in a look at all of them; who is not there any more is forgotten. `at_s` is monotonic."""
        known = {status.profile.engine_id: status for status in engines}
        self._engines = {name: self._engines.get(name) or EngineHistory() for name in known}
        for name, status in known.items():
            self._engines[name].add(at_s, status)

    def of(self, engine_id: str) -> EngineHistory:
        """Of one engine that the newest look has seen."""
        return self._engines[engine_id]


def _interval(then: admin_pb2.EngineStatus, now: admin_pb2.EngineStatus, seconds: float) -> Interval:
    steps = now.steps_total - then.steps_total
    tokens = now.committed_tokens_total - then.committed_tokens_total
    lengths = sum(
        length * (count - then.steps_by_num_steps.get(length, 0))
        for length, count in now.steps_by_num_steps.items()
    )
    return Interval(
        steps_per_s=steps / seconds,
        tokens_per_s=tokens / seconds,
        num_steps=lengths / steps if steps else math.nan,
        fallbacks=now.steps_by_source.get("fallback", 0) - then.steps_by_source.get("fallback", 0),
    )
