"""Hands observed steps on to whoever watches; a slow watcher loses steps and delays nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from control_service.core.types import EngineProfile, StepObservation

WATCHERS_MAX = 16
QUEUE_STEPS = 8_192
STEPS_PER_TURN = 128


class TooManyWatchersError(Exception):
    """No room for another watcher."""


class WatchedStep(NamedTuple):
    """A step that a session has learned."""

    profile: EngineProfile
    step: StepObservation


class Watcher:
    """One reader's bounded queue."""

    def __init__(self, engine_id: str) -> None:
        self.dropped_total = 0
        self._engine_id = engine_id
        self._queue: deque[WatchedStep] = deque()
        self._closed = False
        self._wake = asyncio.Event()

    def put(self, watched: WatchedStep) -> None:
        """Queue a step of the engine watched; what finds no room is lost, and counted."""
        if self._engine_id not in ("", watched.profile.engine_id):
            return
        if len(self._queue) == QUEUE_STEPS:
            self.dropped_total += 1
            return
        self._queue.append(watched)
        self._wake.set()

    def close(self) -> None:
        """Nothing more will come; what is queued is still read."""
        self._closed = True
        self._wake.set()

    async def turns(self) -> AsyncIterator[list[WatchedStep]]:
        """Queued steps, oldest first, some at a time, as they come."""
        while True:
            while not self._queue:
                if self._closed:
                    return
                self._wake.clear()
                await self._wake.wait()
            yield [self._queue.popleft() for _ in range(min(len(self._queue), STEPS_PER_TURN))]


class StepWatchers:
    """All watchers of a service."""

    def __init__(self) -> None:
        self._watchers: list[Watcher] = []
        self._closed = False

    def publish(self, profile: EngineProfile, step: StepObservation) -> None:
        """A step was learned."""
        for watcher in self._watchers:
            watcher.put(WatchedStep(profile, step))

    @contextmanager
    def watching(self, engine_id: str) -> Iterator[Watcher]:
        """Steps of one engine, or of all for an empty name. Raises TooManyWatchersError."""
        if len(self._watchers) == WATCHERS_MAX:
            raise TooManyWatchersError(f"{WATCHERS_MAX} are watching, no more are allowed")
        watcher = Watcher(engine_id)
        if self._closed:
            watcher.close()
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)

    def close(self) -> None:
        """End all watches, also those to come."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()
