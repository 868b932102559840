"""A stepped engine that runs on and on, in a thread, under a load that moves."""

from __future__ import annotations

import random
import threading
import time

from sglang_patch.recorder import StepRecord
from tests.support.stepped_engine import SteppedEngine

PHASE_STEPS = 200
BATCH_SIZES = (1, 2, 8, 4)
CONTEXT_TOKENS = 200


class BusyEngine(SteppedEngine):
    """Drafts are good and cheap: 0.8 of them are accepted, one more costs a twentieth of a step."""

    def __init__(self, address: str, engine_id: str) -> None:
        super().__init__(address, TURBOSPEC_ENGINE_ID=engine_id)
        self.profile.engine_id = engine_id
        self.steps = 0
        self._random = random.Random(engine_id)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=engine_id)

    def start(self) -> None:
        super().start()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)
        self.control.close()

    def step(self, batch_size: int = 2) -> StepRecord:
        start_ns = time.monotonic_ns()
        record = self.control.begin(batch_size, CONTEXT_TOKENS * batch_size, 1, start_ns, idled=False)
        record.control_ns = time.monotonic_ns() - start_ns - record.decision.wait_ns
        length = self.control.num_steps
        time.sleep(0.004 + 0.0002 * length + 0.0001 * batch_size)
        record.first_step = [False] * batch_size
        record.after_full_accept = [False] * batch_size
        accepted = [self._accepted(length) for _ in range(batch_size)]
        self.control.processed(record, length, accepted, time.monotonic_ns())
        self.steps += 1
        return record

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.step(BATCH_SIZES[self.steps // PHASE_STEPS % len(BATCH_SIZES)])

    def _accepted(self, length: int) -> int:
        count = 0
        while count < length and self._random.random() < 0.8:
            count += 1
        return count
