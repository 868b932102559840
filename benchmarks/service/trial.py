"""One trial: a fresh service on its core, so many engines on the others, for a while."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.admin import Admin
from benchmarks.processes import ManagedProcess
from benchmarks.servers import clean_environment
from benchmarks.service.cores import Cores, pinned
from benchmarks.service.load import LoadedEngine, Tally, profile_of
from benchmarks.service.results import Asking, Trial
from benchmarks.service.spans import SpanPool
from benchmarks.spread import percentile

START_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.05
# Engines arrive one after the other, as they would.
ARRIVAL_SPREAD_S: Final = 1.0
SCRAPE_INTERVAL_S: Final = 5.0
SCRAPE_TIMEOUT_S: Final = 5.0
VALID_FOR_STEPS: Final = {Asking.EVERY_STEP: 1, Asking.LEASES: 16}


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What all trials of a run have in common; times in seconds."""

    batch_size: int
    warmup_s: float
    directory: Path
    cores: Cores


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that is ready."""

    process: ManagedProcess
    address: str
    metrics_url: str


async def run_trial(plan: TrialPlan, asking: Asking, engines: int, seconds: float) -> Trial:
    """Start a service, load it, and stop it.

    Raises:
        ProcessFailed: the service did not start, or ended.
    """
    flags = ("--lease-valid-for-steps", str(VALID_FOR_STEPS[asking]), *room_for(engines))
    listen = f"unix:{plan.directory}/control.sock"
    async with control_service(plan, listen, flags) as service:
        return await load_services(plan, service.address, [service], asking, engines, seconds)


async def load_services(
    plan: TrialPlan,
    address: str,
    services: Sequence[RunningService],
    asking: Asking,
    engines: int,
    seconds: float,
) -> Trial:
    """Put engines on what answers at `address`, count for `seconds`, and take them off again.

    `services` are those behind the address.
    """
    pool = SpanPool(profile_of(0, plan.batch_size), plan.batch_size)
    tally, total = Tally(), Tally()
    drawn = random.Random(engines)
    loaded = [
        LoadedEngine(
            number, address, pool, tally,
            batch_size=plan.batch_size, strict=asking is Asking.EVERY_STEP,
        )
        for number in range(engines)
    ]  # fmt: skip
    begin_s = time.monotonic() + 0.1
    with collector_off():
        runs = [
            asyncio.create_task(engine.run(begin_s + ARRIVAL_SPREAD_S * drawn.random())) for engine in loaded
        ]
        scrapes = [asyncio.create_task(_scrape_on(service.metrics_url)) for service in services]
        await asyncio.sleep(ARRIVAL_SPREAD_S + plan.warmup_s)
        total.add(tally.cut())
        before = Usage.read(services)
        await asyncio.sleep(seconds)
        after = Usage.read(services)
        window = tally.cut()
        for engine in loaded:
            engine.stop()
        await asyncio.gather(*runs)
        for scrape in scrapes:
            scrape.cancel()
        await asyncio.gather(*scrapes, return_exceptions=True)
    total.add(window)
    total.add(tally)
    counted = sum([await _steps_counted(service) for service in services])
    passed_s = after.at_s - before.at_s
    return Trial(
        asking=asking,
        engines=engines,
        seconds=passed_s,
        steps=window.steps,
        decisions_per_s=window.answers / passed_s,
        spans_per_s=window.spans_sent / passed_s,
        answer_p50_s=percentile(window.answer_s, 50),
        answer_p99_s=percentile(window.answer_s, 99),
        answer_p999_s=percentile(window.answer_s, 99.9),
        answer_max_s=percentile(window.answer_s, 100),
        lateness_p99_s=percentile(window.lateness_s, 99),
        requests_unanswered=window.requests_unanswered,
        steps_without_lease=window.steps_without_lease,
        leases_refused=window.leases_refused,
        spans_rejected=window.spans_rejected,
        spans_dropped=window.spans_dropped,
        spans_uncounted=max(0, total.spans_sent - total.spans_rejected - counted),
        streams_broken=window.streams_broken,
        service_cores=(after.service_cpu_s - before.service_cpu_s) / passed_s,
        load_cores=(after.load_cpu_s - before.load_cpu_s) / passed_s,
        service_rss_mib=after.service_rss_mib,
    )


@asynccontextmanager
async def control_service(
    plan: TrialPlan, listen: str, flags: Sequence[str], *, name: str = "control", store: str = ""
) -> AsyncIterator[RunningService]:
    """A service on its core, learning from cold unless the store knows something; stopped at the end."""
    ready_file = plan.directory / f"{name}.ready"
    ready_file.unlink(missing_ok=True)
    argv = [
        *(sys.executable, "-m", "control_service", "--ready-file", str(ready_file)),
        *("--listen", listen, "--metrics-listen", "127.0.0.1:0", "--store", store),
        *("--log-level", "warning", *flags),
    ]
    with pinned(plan.cores.service):
        process = ManagedProcess(f"{name} service", argv, clean_environment(), plan.directory / f"{name}.log")
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not ready_file.exists():
            process.require_alive()
            if time.monotonic() > deadline_s:
                raise process.failure(f"was not ready after {START_TIMEOUT_S:.0f} s")
            await asyncio.sleep(POLL_S)
        ready = json.loads(ready_file.read_text(encoding="utf-8"))
        yield RunningService(process, ready["grpc"][0], ready["metrics"])
    finally:
        process.stop()


def room_for(engines: int) -> tuple[str, ...]:
    """The service's own limits, out of the way."""
    return ("--engines-max", str(engines + 8), "--streams-max", str(engines + 8))


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds up to one moment, and memory at it, of all services together."""

    at_s: float
    service_cpu_s: float
    service_rss_mib: float
    load_cpu_s: float

    @classmethod
    def read(cls, services: Sequence[RunningService]) -> Usage:
        processes = [psutil.Process(service.process.pid) for service in services]
        return cls(
            time.monotonic(),
            sum(map(_cpu_s, processes)),
            sum(process.memory_info().rss for process in processes) / 2**20,
            _cpu_s(psutil.Process(os.getpid())),
        )


@contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection of the generator's in the middle of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _steps_counted(service: RunningService) -> int:
    service.process.require_alive()
    async with Admin(service.address) as admin:
        return sum(status.steps_total for status in await admin.engines())


async def _scrape_on(url: str) -> None:
    """Read the metrics as Prometheus would."""
    while True:
        await asyncio.sleep(SCRAPE_INTERVAL_S)
        await asyncio.to_thread(_read, url)


def _read(url: str) -> None:
    with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as answer:
        answer.read()
