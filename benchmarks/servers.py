"""Real SGLang servers and the real control service, as a user would start them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from benchmarks.models import Model
from benchmarks.processes import CpuMeter, ManagedProcess, stop_all
from benchmarks.turn_clock import VARIABLE, TurnClock
from benchmarks.variants import Variant, VariantKind, speculation_flags

HOST = "127.0.0.1"
PORTS = (20_000, 32_000)
START_TIMEOUT_S = 300.0
SERVICE_START_TIMEOUT_S = 30.0
# Servers are stopped between their turns; time alone must not end their leases, their steps do.
LEASE_VALID_FOR_MS = 60_000
POLL_S = 0.25
FLUSH_PARAMETERS = {"timeout": "30"}
# Proportional set size of one small server on a CPU: three processes that each import torch.
SERVER_MEMORY_GIB = 2.2
MEMORY_RESERVE_GIB = 2.0
# The same for every variant. Chunks are sent as disjoint pieces, so that the cost of an answer's stream
# does not grow with its length; prompts never share a prefix cache between variants.
COMMON_FLAGS = (
    *("--max-total-tokens", "20000"),
    *("--max-running-requests", "16"),
    *("--context-length", "1024"),
    *("--random-seed", "1"),
    "--incremental-streaming-output",
)
# A benchmark starts cold, and leaves nothing to the next.
BENCH_SERVICE_FLAGS = ("--store", "", "--lease-valid-for-ms", str(LEASE_VALID_FOR_MS))
# The control service names itself by it, once it can be reached.
READY_FILE = "control.ready"
# As SGLang names the process that runs the model.
SCHEDULER = "sglang::scheduler"
# A word in the command of our agent.
AGENT = "sglang_patch.agent"
CPU_FLAGS = ("--device", "cpu", "--disable-cuda-graph", "--sleep-on-idle", "--skip-server-warmup")


class ServerRefused(RuntimeError):
    """A server did not do what a benchmark needs of it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all servers of one set have in common."""

    model: Model
    algorithm: str
    # Lengths compared, ascending, 0 excluded.
    lengths: tuple[int, ...]
    device: str
    directory: Path
    # For SGLang as they are, last.
    extra_flags: tuple[str, ...] = ()
    # The module that starts SGLang, what every variant is launched with, and more of the environment.
    launcher: str = "sglang_patch.launch"
    common_flags: tuple[str, ...] = COMMON_FLAGS
    environment: Mapping[str, str] = field(default_factory=dict)
    # The environment of single variants, by label.
    variant_environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    start_timeout_s: float = START_TIMEOUT_S

    def argv(self, variant: Variant, port: int) -> list[str]:
        """The command that launches `variant`."""
        draft = self.model.drafts.get(self.algorithm)
        device_flags = CPU_FLAGS if self.device == "cpu" else ("--device", self.device)
        return [
            *(sys.executable, "-m", self.launcher, "--host", HOST, "--port", str(port)),
            *("--model-path", str(self.model.target), "--dtype", self.model.dtype),
            *device_flags,
            *self.common_flags,
            *speculation_flags(variant, self.algorithm, str(draft) if draft else None, self.lengths),
            *self.extra_flags,
        ]


def server_environment(
    setup: Setup, variant: Variant, control_address: str | None, engine_id: str
) -> dict[str, str]:
    """What `variant` needs in its environment beyond ours."""
    ours = dict(setup.environment) | dict(setup.variant_environment.get(variant.label, {}))
    if variant.kind is VariantKind.TURBOSPEC:
        assert control_address is not None, "turbospec needs a control service"
        ours["TURBOSPEC_CONTROL_ADDRESS"] = control_address
        ours["TURBOSPEC_ENGINE_ID"] = engine_id
        ours["TURBOSPEC_CANDIDATES"] = ",".join(map(str, (0, *setup.lengths)))
        # A benchmark of an engine that has silently come up without the plugin would be a lie.
        ours["TURBOSPEC_STRICT"] = "1"
    return ours


class Server:
    """One SGLang server: the process and its endpoint."""

    def __init__(self, variant: Variant, setup: Setup, control_address: str | None) -> None:
        self.variant = variant
        self._start_timeout_s = setup.start_timeout_s
        port = free_port()
        self.base_url = f"http://{HOST}:{port}"
        self.engine_id = f"{HOST}:{port}"
        name = variant.label.replace(":", "-")
        clock_path = setup.directory / f"{name}.clock"
        self.clock = TurnClock(clock_path)
        env = clean_environment() | server_environment(setup, variant, control_address, self.engine_id)
        env[VARIABLE] = str(clock_path.absolute())
        log_path = setup.directory / f"{name}.log"
        self.process = ManagedProcess(variant.label, setup.argv(variant, port), env, log_path)

    async def wait_healthy(self, session: aiohttp.ClientSession) -> None:
        """Return when it answers; raises ProcessFailed if it ends or takes too long."""
        deadline_s = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline_s:
            self.process.require_alive()
            if await _answers_ok(session, f"{self.base_url}/health"):
                return
            await asyncio.sleep(POLL_S)
        raise self.process.failure(f"was not healthy after {self._start_timeout_s:.0f} s")


class ServerSet:
    """The servers of some variants, up together, and the control service if one of them is ours."""

    def __init__(
        self,
        setup: Setup,
        variants: Sequence[Variant],
        start_parallel: int,
        *,
        service_flags: Sequence[str] = BENCH_SERVICE_FLAGS,
    ) -> None:
        self._setup = setup
        self._service_flags = service_flags
        self._variants = variants
        self._start_parallel = start_parallel
        self._processes: list[ManagedProcess] = []
        self.servers: list[Server] = []
        self.control_address: str | None = None
        self.service: ManagedProcess | None = None

    async def __aenter__(self) -> ServerSet:
        self._setup.directory.mkdir(parents=True, exist_ok=True)
        try:
            await self._start()
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop()

    def share_core(self) -> None:
        """Have all schedulers compute on the same core, which is fair only while they run in turns.

        A virtual core may be slower for seconds to minutes at times of its own (its host has other guests),
        and a scheduler goes on on the core where it was stopped: without this, two of them are compared on
        two cores.
        """
        core = max(os.sched_getaffinity(0))
        for server in self.servers:
            server.process.pin(SCHEDULER, core)

    def read_cpu(self) -> CpuMeter:
        """Processor time up to now."""
        return CpuMeter.read(self._processes)

    def require_alive(self) -> None:
        """Raises ProcessFailed if any of them has ended."""
        for process in self._processes:
            process.require_alive()

    async def _start(self) -> None:
        if any(variant.kind is VariantKind.TURBOSPEC for variant in self._variants):
            self.service, self.control_address = await start_control_service(
                self._setup.directory, self._processes, self._service_flags
            )
        turns = asyncio.Semaphore(self._start_parallel)
        async with control_session() as session:
            starts = [asyncio.create_task(self._start_one(v, session, turns)) for v in self._variants]
            try:
                await asyncio.gather(*starts)
            finally:
                for start in starts:
                    start.cancel()
        self.servers.sort(key=lambda server: self._variants.index(server.variant))

    async def _start_one(
        self, variant: Variant, session: aiohttp.ClientSession, turns: asyncio.Semaphore
    ) -> None:
        async with turns:
            server = Server(variant, self._setup, self.control_address)
            self._processes.append(server.process)
            await server.wait_healthy(session)
            self.servers.append(server)

    def _stop(self) -> None:
        stop_all(list(reversed(self._processes)))
        self._processes.clear()
        self.servers.clear()


async def reset_server(session: aiohttp.ClientSession, base_url: str) -> None:
    """End what still runs and empty the prefix cache (and NGRAM's corpus): the next run starts cold.

    Raises:
        ServerRefused: the server does not do it.
    """
    calls = (
        ("/abort_request", {"json": {"abort_all": True}}),
        ("/flush_cache", {"params": FLUSH_PARAMETERS}),
    )
    for path, arguments in calls:
        async with session.post(base_url + path, **arguments) as response:
            if response.status != 200:
                text = (await response.text())[:500]
                raise ServerRefused(f"{base_url}{path} answered {response.status}: {text}")


async def start_control_service(
    directory: Path, processes: list[ManagedProcess], flags: Sequence[str] = BENCH_SERVICE_FLAGS
) -> tuple[ManagedProcess, str]:
    """Start the service, put it into `processes` at once, return it and its address when it is ready."""
    ready_file = directory / READY_FILE
    ready_file.unlink(missing_ok=True)
    argv = [
        *(sys.executable, "-m", "control_service", "--ready-file", str(ready_file)),
        *("--listen", f"{HOST}:0", "--metrics-listen", f"{HOST}:0"),
        *flags,
    ]
    process = ManagedProcess("control service", argv, clean_environment(), directory / "control.log")
    processes.append(process)
    deadline_s = time.monotonic() + SERVICE_START_TIMEOUT_S
    while not ready_file.exists():
        process.require_alive()
        if time.monotonic() > deadline_s:
            raise process.failure(f"was not ready after {SERVICE_START_TIMEOUT_S:.0f} s")
        await asyncio.sleep(POLL_S)
    return process, str(json.loads(ready_file.read_text(encoding="utf-8"))["grpc"][0])


def clean_environment() -> dict[str, str]:
    """Our environment without what would switch the plugin on in an engine that must be plain."""
    kept = ("TURBOSPEC_CACHE_", "TURBOSPEC_CPU_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TURBOSPEC_") or name.startswith(kept)
    }


def server_capacity() -> int:
    """How many small CPU servers fit into the memory that is free now."""
    free_gib = psutil.virtual_memory().available / 2**30 - MEMORY_RESERVE_GIB
    return max(0, int(free_gib / SERVER_MEMORY_GIB))


def free_port() -> int:
    """A port that nobody listens on now, below those that the system hands out to everybody by itself."""
    for _ in range(100):
        port = random.randint(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port found between {PORTS[0]} and {PORTS[1]}")


def control_session() -> aiohttp.ClientSession:
    """For calls that are seconds apart: servers close idle connections, so none is kept."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


async def _answers_ok(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=20)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
