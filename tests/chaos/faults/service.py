"""The control service dies, hangs, restarts, crawls, loses its socket file or is fed garbage."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest as Export,
)

from tests.chaos.fault import Fault
from tests.chaos.stage import Stage
from tests.fuzz.mutate import Mutator
from tests.fuzz.seeds import export_requests
from tests.support.stepped_engine import ENGINE_ID

# An answer takes the service 0.7 ms; run for 1 ms in 100 it takes it 70.
RUN_S: Final = 0.001
HOLD_S: Final = 0.099
EXPORT_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Background:
    """Does something to a stage over and over, on a thread, until told to stop."""

    def __init__(self, turn: Callable[[Stage], None]) -> None:
        self._turn = turn
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, stage: Stage) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(stage,), daemon=True)
        self._thread.start()

    def stop(self, _stage: Stage) -> None:
        assert self._thread is not None
        self._stopping.set()
        self._thread.join()

    def _run(self, stage: Stage) -> None:
        while not self._stopping.is_set():
            self._turn(stage)


def _crawl(stage: Stage) -> None:
    """A hundredth of the time it may run."""
    os.kill(stage.service.pid, signal.SIGSTOP)
    time.sleep(HOLD_S)
    os.kill(stage.service.pid, signal.SIGCONT)
    time.sleep(RUN_S)


def _garbage(stage: Stage) -> None:
    """Exports in the engine's own name, mutated or no protobuf at all, as fast as they are refused."""
    mutator = Mutator(random.Random(time.monotonic_ns()))
    seeds = export_requests(ENGINE_ID, stage.engine.epoch)
    with grpc.insecure_channel(stage.service.address) as channel:
        export = channel.unary_unary(EXPORT_METHOD)
        for _ in range(20):
            try:
                export(mutator.message(mutator.chance.choice(seeds), seeds, Export), timeout=1)
            except grpc.RpcError:
                # Refused, as it should be.
                continue


def _stop(stage: Stage) -> None:
    stage.service.stop()


def _start(stage: Stage) -> None:
    stage.service.start()


def _unlink_socket(stage: Stage) -> None:
    stage.service.socket.unlink()


def _unlink_socket_and_reconnect(stage: Stage) -> None:
    stage.service.socket.unlink()
    stage.engine.agent().kill()


def _restart(stage: Stage) -> None:
    stage.service.stop()
    stage.service.start()


crawl = Background(_crawl)
garbage = Background(_garbage)

FAULTS: Final = (
    Fault(
        "service SIGKILL",
        "SIGKILL to the service; started again later",
        Stage,
        inject=lambda stage: stage.service.kill(),
        heal=_start,
    ),
    Fault(
        "service SIGSTOP",
        "SIGSTOP to the service, its sockets stay open; SIGCONT later",
        Stage,
        inject=lambda stage: stage.service.pause(),
        heal=lambda stage: stage.service.resume(),
    ),
    Fault(
        "service restart",
        "SIGTERM to the service; started again at once",
        Stage,
        inject=_stop,
        heal=_start,
        steps=0,
    ),
    Fault(
        "service 100x slower",
        f"the service runs for {RUN_S * 1e3:.0f} ms, stands still for {HOLD_S * 1e3:.0f} ms, and so on",
        Stage,
        inject=crawl.start,
        heal=crawl.stop,
        steps=400,
    ),
    Fault(
        "OTLP garbage",
        "mutated exports in the engine's own name sent to the service as fast as it answers",
        Stage,
        inject=garbage.start,
        heal=garbage.stop,
        must_lose_control=False,
        steps=400,
    ),
    Fault(
        "socket file removed",
        "the service's socket file is removed under an open stream; the service is restarted later",
        Stage,
        inject=_unlink_socket,
        heal=_restart,
        must_lose_control=False,
    ),
    Fault(
        "socket file removed, agent restarts",
        "the same, and the agent is killed, so that it must connect anew; the service is restarted later",
        Stage,
        inject=_unlink_socket_and_reconnect,
        heal=_restart,
        kills_witness=True,
        short_form=False,
    ),
)
