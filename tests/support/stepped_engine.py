"""The engine side without SGLang: a ``StepControl`` stepped the way the scheduler's hooks do it."""

from __future__ import annotations

import threading
import time

from sglang_patch.config import EngineConfig
from sglang_patch.control import StepControl
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry as names
from turbospec.v1.control_pb2 import EngineProfile

CANDIDATES = (0, 1, 3, 5)
STEP_S = 0.001
ENGINE_ID = "test"


class SteppedEngine:
    """Real board, real agent process, real wire; only the forward pass is a nap."""

    def __init__(self, address: str, *, step_s: float = STEP_S, **env: str) -> None:
        self._step_s = step_s
        config = EngineConfig.from_env(
            {
                "TURBOSPEC_CONTROL_ADDRESS": address,
                "TURBOSPEC_EXPORT_INTERVAL_MS": "5",
                "TURBOSPEC_STEP_DEADLINE_US": "100000",
                **env,
            }
        )
        assert config is not None
        self.control = StepControl(config, CANDIDATES, launch_num_steps=5)
        self.profile = EngineProfile(
            engine_id=ENGINE_ID,
            epoch=11,
            sglang_version="0.5.23",
            plugin_version="0",
            target_model="none",
            dtype="float32",
            accelerator="none",
            tensor_parallel_size=1,
            data_parallel_size=1,
            pipeline_parallel_size=1,
            algorithm="STANDALONE",
            topk=1,
            candidate_num_steps=CANDIDATES,
            max_running_requests=16,
            launch_num_steps=5,
        )

    def start(self) -> None:
        self.control.start(self.profile)

    def step(self, batch_size: int = 2) -> StepRecord:
        start_ns = time.monotonic_ns()
        record = self.control.begin(batch_size, 50 * batch_size, 0, start_ns, idled=False)
        record.control_ns = time.monotonic_ns() - start_ns - record.decision.wait_ns
        length = self.control.num_steps
        time.sleep(self._step_s)
        returned_ns = time.monotonic_ns()
        record.first_step = [False] * batch_size
        record.after_full_accept = [False] * batch_size
        record.control_ns += time.monotonic_ns() - returned_ns
        accepted = [min(length, 1)] + [0] * (batch_size - 1)
        self.control.processed(record, length, accepted, time.monotonic_ns())
        return record

    def run_until(self, source: str, limit: int = 500) -> int:
        """Step until a step has this source; returns how many that took."""
        for count in range(1, limit + 1):
            if names.SOURCES[self.step().decision.source] == source:
                return count
        raise AssertionError(f"no step was decided by {source} within {limit}")

    @property
    def connected(self) -> bool:
        return self.control.board.connected()


class BusyEngine:
    """A `SteppedEngine` that goes on stepping in a thread, as an engine under load does."""

    PAUSE_S = 0.012

    def __init__(self, address: str, engine_id: str, **env: str) -> None:
        self.batch_size = 2
        self._engine = SteppedEngine(address, **env)
        self._engine.profile.engine_id = engine_id
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"busy-{engine_id[:8]}")

    def start(self) -> None:
        self._engine.start()
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self._engine.control.close()

    def _run(self) -> None:
        while not self._ending.wait(self.PAUSE_S):
            self._engine.step(self.batch_size)
