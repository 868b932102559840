"""The faults that matter most, beside a real SGLang server under load: outputs are compared by token.

The server runs the knob model in fp32 with STANDALONE speculation. Steps are known from their spans.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx

from sglang_patch.models import knob
from sglang_patch.models.store import models_directory
from tests.chaos.fault import Fault
from tests.chaos.faults import BY_NAME
from tests.chaos.outcome import Cost, Ledger, Outcome, differences, origins
from tests.chaos.stage import Stage
from tests.chaos.steps import STEADY_STEPS, Step, read_spans, until_control, until_loss
from tests.engine.conftest import CANDIDATES, SCALE, algorithm_flags
from tests.support.collector import Collector
from tests.support.control_process import ControlProcess
from tests.support.engine_server import EngineServer
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names

STARRED: Final = ("service SIGKILL", "service SIGSTOP", "service restart")
QUIET_STEPS: Final = 200
FAULT_STEPS: Final = 150
MAX_NEW_TOKENS: Final = 80
TIMEOUT_S: Final = 120.0


class SglangStage:
    """A server under control, its service, and what it says without speculation and without us.

    Has of a ``Stage`` what the starred faults touch: ``service``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cleanup = ExitStack()
        self.service = ControlProcess(directory)
        self.collector = Collector(self.service.address)
        text = Path(knob.__file__).read_text()
        self._prompts = [text[:60], text[200:420], text[500:520], "abc abd abe " * 12]
        self._plain: list[list[int]] = []

    def __enter__(self) -> SglangStage:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        model = models_directory() / f"knob-{SCALE:g}"
        knob.make(model, SCALE)
        flags = ["--model-path", str(model / "target"), "--dtype", "float32"]
        plain = EngineServer(flags, self._directory / "plain.log")
        try:
            self._plain = plain.wait_ready().generate_many(self._prompts, MAX_NEW_TOKENS)
        finally:
            plain.stop()
        self.service.start()
        self._cleanup.callback(self.service.stop)
        environment = {
            "TURBOSPEC_CONTROL_ADDRESS": self.service.address,
            "TURBOSPEC_OTLP_ADDRESS": self.collector.start(self._directory / "otlp.sock"),
            "TURBOSPEC_CANDIDATES": ",".join(map(str, CANDIDATES)),
            "TURBOSPEC_EXPORT_INTERVAL_MS": "20",
        }
        self._cleanup.callback(self.collector.stop)
        self.server = EngineServer(
            flags + algorithm_flags("STANDALONE", model), self._directory / "server.log", environment
        )
        self._cleanup.callback(self.server.stop)
        self.server.wait_ready()

    def steps(self) -> list[Step]:
        return read_spans(self.collector.spans())

    def wait_steps(self, count: int) -> None:
        wanted = len(self.steps()) + count
        if not eventually(lambda: len(self.steps()) >= wanted, TIMEOUT_S):
            raise AssertionError(f"the server took no {count} steps within {TIMEOUT_S:.0f} s")

    def wait_controlled(self) -> bool:
        def steady() -> bool:
            newest = self.steps()[-STEADY_STEPS:]
            return len(newest) == STEADY_STEPS and all(step.led for step in newest)

        return eventually(steady, TIMEOUT_S)

    def dropped(self) -> int:
        return max((span.get(names.DROPPED_RECORDS, 0) for span in self.collector.spans()), default=0)

    def load(self) -> _Load:
        return _Load(self.server, self._prompts, self._plain)


class _Load:
    """Requests without end while it is entered; afterwards, what came of them."""

    def __init__(self, server: EngineServer, prompts: list[str], plain: list[list[int]]) -> None:
        self._server, self._prompts, self._plain = server, prompts, plain
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0
        self.lost = 0
        self.different = 0

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                outputs = self._server.generate_many(self._prompts, MAX_NEW_TOKENS)
            except httpx.HTTPError:
                self.lost += 1
                continue
            self.rounds += 1
            self.different += sum(one != other for one, other in zip(outputs, self._plain, strict=True))


def run_all(chosen: set[str]) -> Iterator[Outcome]:
    """The starred faults among those chosen, one after the other on one server."""
    wanted = [BY_NAME[name] for name in STARRED if name in chosen]
    if not wanted:
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory, SglangStage(Path(directory)) as stage:
        for fault in wanted:
            yield _run(fault, stage)


def _run(fault: Fault[Stage], stage: SglangStage) -> Outcome:
    with stage.load() as load:
        stage.wait_controlled()
        first, dropped = len(stage.steps()), stage.dropped()
        stage.wait_steps(QUIET_STEPS)
        inject_ns = time.time_ns()
        # The starred faults are of the service alone.
        fault.inject(stage)  # type: ignore[arg-type]
        if fault.steps:
            stage.wait_steps(FAULT_STEPS)
        fault.heal(stage)  # type: ignore[arg-type]
        heal_ns = time.time_ns()
        eventually(lambda: until_control(stage.steps(), heal_ns) is not None, TIMEOUT_S)
        back_ns = time.time_ns()
        stage.wait_steps(QUIET_STEPS)
    steps = stage.steps()[first:]
    count = until_control(steps, heal_ns)
    back = [step for step in steps if step.start_ns >= heal_ns][count - 1].start_ns if count else None
    wrong = differences(steps, [], frozenset(CANDIDATES), what="server")
    if load.different or not load.rounds:
        wrong.append(f"{load.different} outputs differ in {load.rounds} rounds")
    # By its numbers: what telemetry missed counts as a step too.
    whole = steps[-1].number - steps[0].number + 1
    return Outcome(
        fault=fault.name,
        engine="SGLang",
        quiet=Cost.of(step for step in steps if step.start_ns < inject_ns or step.start_ns >= back_ns),
        during=Cost.of(step for step in steps if inject_ns <= step.start_ns < heal_ns),
        until_loss_steps=until_loss([s for s in steps if s.start_ns < heal_ns], inject_ns),
        until_control_steps=count,
        until_control_ms=(back - heal_ns) / 1e6 if back is not None else None,
        rescue="",
        ledger=Ledger(whole, origins(steps), len(steps), stage.dropped() - dropped),
        requests_lost=load.lost,
        differences=wrong,
    )
