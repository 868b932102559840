"""A stepping engine as a process of its own, so that faults can be done to it and to its threads.

The process runs the real ``StepControl``, board and agent; its forward pass is a nap of some milliseconds. It
writes down every step, which is the truth that telemetry is compared with.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from tests.chaos.steps import NOTE_BYTES, STEADY_STEPS, Step, note, read_notes
from tests.support.stepped_engine import SteppedEngine
from tests.support.wait import eventually

ROOT: Final = Path(__file__).parents[2]
# As short as decode steps of real engines get.
STEP_S: Final = 0.005
# No step takes this long unless the machine itself hangs.
STEP_TIMEOUT_S: Final = 0.1
SLACK_S: Final = 20.0
# The batch moves now and then, as that of a real engine does.
BATCH_HOLDS_STEPS: Final = 128
BATCHES: Final = (2, 4, 1, 3)


class EngineStalled(AssertionError):
    """The engine has stopped stepping: the one thing that no fault may bring about."""


class EngineProcess:
    """One life of a stepping engine: an epoch."""

    def __init__(
        self,
        directory: Path,
        *,
        epoch: int,
        control_address: str,
        otlp_address: str,
        environment: Mapping[str, str],
    ) -> None:
        self.epoch = epoch
        self._notes = directory / f"steps-{epoch}.bin"
        self._notes.touch()
        self._steps: list[Step] = []
        self._log = directory / f"engine-{epoch}.log"
        order = {
            "epoch": epoch,
            "notes": str(self._notes),
            "control_address": control_address,
            "otlp_address": otlp_address,
            "kill_file": str(directory / "kill"),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.engine", json.dumps(order)],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    # -- what it does ----------------------------------------------------------

    def steps(self) -> list[Step]:
        """Every step so far."""
        with self._notes.open("rb") as notes:
            notes.seek(len(self._steps) * NOTE_BYTES)
            self._steps.extend(read_notes(notes.read()))
        return self._steps

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, count: int) -> None:
        """Let it take so many more steps. Raises EngineStalled."""
        wanted = len(self.steps()) + count
        if not eventually(lambda: len(self.steps()) >= wanted, SLACK_S + count * STEP_TIMEOUT_S):
            log = self._log.read_text(errors="replace")[-2000:]
            raise EngineStalled(f"the engine took {len(self.steps())} steps, not {wanted}:\n{log}")

    def wait_controlled(self, timeout_s: float) -> bool:
        """Whether its newest steps are all led by leases before the time is over."""

        def steady() -> bool:
            newest = self.steps()[-STEADY_STEPS:]
            return len(newest) == STEADY_STEPS and all(step.led for step in newest)

        return eventually(steady, timeout_s)

    # -- what is done to it ----------------------------------------------------

    def hog(self, on: bool) -> None:
        """A thread of the engine that never gives up the interpreter lock by itself begins or ends."""
        self._tell("hog" if on else "calm")

    def agent(self) -> psutil.Process:
        """Its agent process, there or about to be."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [
                child
                for child in psutil.Process(self._process.pid).children()
                if "sglang_patch.agent" in child.cmdline()
            ]
            return bool(found)

        if not eventually(look):
            raise EngineStalled("the engine has no agent")
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        """To the engine and its agent, as to a machine that freezes and thaws."""
        agent = self.agent()
        self._process.send_signal(number)
        agent.send_signal(number)

    def kill(self) -> None:
        """SIGKILL in the middle of a step; its agent is left to notice."""
        self._process.kill()
        self._reap()

    def stop(self) -> bool:
        """End it in order; whether it did."""
        if self.alive:
            self._tell("stop")
        return self._reap() == 0

    def _reap(self) -> int:
        assert self._process.stdin is not None
        try:
            return self._process.wait(SLACK_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(SLACK_S)
        finally:
            self._process.stdin.close()

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()


# -- inside the process --------------------------------------------------------


class _Commands:
    """What the process was told on standard input, followed by a thread; its end means stop."""

    def __init__(self) -> None:
        self.stopping = False
        self._hogging = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()
        threading.Thread(target=self._hog, daemon=True).start()

    def _follow(self) -> None:
        for line in sys.stdin:
            if line.strip() == "hog":
                self._hogging.set()
            elif line.strip() == "calm":
                self._hogging.clear()
            else:
                break
        self.stopping = True

    def _hog(self) -> None:
        while self._hogging.wait():
            # Pure Python: the lock changes hands only when the interpreter takes it away.
            sum(number * number for number in range(10_000))


def main(order: dict[str, Any]) -> None:
    """Step until told to stop."""
    engine = SteppedEngine(
        order["control_address"],
        step_s=STEP_S,
        TURBOSPEC_OTLP_ADDRESS=order["otlp_address"],
        TURBOSPEC_KILL_FILE=order["kill_file"],
        TURBOSPEC_STEP_DEADLINE_US="2000",
        TURBOSPEC_EXPORT_INTERVAL_MS="20",
    )
    engine.profile.epoch = order["epoch"]
    engine.start()
    commands = _Commands()
    with open(order["notes"], "ab", buffering=0) as notes:
        index = 0
        while not commands.stopping:
            record = engine.step(BATCHES[index // BATCH_HOLDS_STEPS % len(BATCHES)])
            notes.write(note(record))
            index = record.step_index
    engine.control.idle()
    engine.control.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
