"""Engines without SGLang: the plugin's step control, its agent processes and its wire, on a timetable.

What steps is one thread for all engines; a step's forward pass is left out, everything of ours is the
plugin's own.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from benchmarks.service.load import CANDIDATES, STEPS_PER_S, profile_of
from sglang_patch.config import EngineConfig
from sglang_patch.control import StepControl
from sglang_patch.decision import FALLBACK

CONTEXT_TOKENS_PER_REQUEST: Final = 1_000
ACCEPTANCE: Final = 0.7
DRAWINGS: Final = 64


class SteppedAt(NamedTuple):
    """One step: when it began (monotonic seconds), and whether it had a lease."""

    begun_s: float
    leased: bool


class PluginEngine:
    """One engine, set up by `environment` as a scheduler process is. `steps` is everything it ran."""

    def __init__(self, number: int, address: str, batch_size: int, environment: Mapping[str, str]) -> None:
        config = EngineConfig.from_env({"TURBOSPEC_CONTROL_ADDRESS": address, **environment})
        assert config is not None
        self.profile = profile_of(number, batch_size)
        self.steps: list[SteppedAt] = []
        self._batch_size = batch_size
        self._control = StepControl(config, CANDIDATES, CANDIDATES[-1], batch_size)
        drawn = random.Random(number)
        self._accepted = {
            length: [[_accepted(length, drawn) for _ in range(batch_size)] for _ in range(DRAWINGS)]
            for length in CANDIDATES
        }
        self._not_first = [False] * batch_size

    def start(self) -> None:
        """Start the agent process."""
        self._control.start(self.profile)

    def close(self) -> None:
        """End the agent process."""
        self._control.close()

    def step(self) -> None:
        """Run one step, which takes until the next one begins."""
        control, size = self._control, self._batch_size
        begun_ns = time.monotonic_ns()
        record = control.begin(size, size * CONTEXT_TOKENS_PER_REQUEST, 0, begun_ns, idled=False)
        length = control.num_steps
        record.first_step = record.after_full_accept = self._not_first
        record.control_ns = time.monotonic_ns() - begun_ns - record.decision.wait_ns
        accepted = self._accepted[length][record.step_index % DRAWINGS]
        control.processed(record, length, accepted, time.monotonic_ns())
        self.steps.append(SteppedAt(begun_ns * 1e-9, record.decision.source != FALLBACK))


class Stepper:
    """Steps all engines on their timetables; a context manager."""

    def __init__(self, engines: list[PluginEngine]) -> None:
        self._engines = engines
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stepper", daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> Stepper:
        for engine in self._engines:
            engine.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for engine in self._engines:
            engine.close()

    def _run(self) -> None:
        begin_s = time.monotonic()
        drawn = random.Random(0)
        due = [(begin_s + drawn.random() / STEPS_PER_S, number) for number in range(len(self._engines))]
        heapq.heapify(due)
        try:
            while not self._stopping.is_set():
                due_s, number = due[0]
                time.sleep(max(0.0, due_s - time.monotonic()))
                self._engines[number].step()
                heapq.heapreplace(due, (due_s + 1 / STEPS_PER_S, number))
        except BaseException as error:
            self.failure = error
            raise


def _accepted(length: int, drawn: random.Random) -> int:
    count = 0
    while count < length and drawn.random() < ACCEPTANCE:
        count += 1
    return count
