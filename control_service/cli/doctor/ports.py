"""TCP ports of SGLang's endpoint and of the metrics: free, ours, or somebody else's."""

from __future__ import annotations

import os
import socket
from typing import Final

import psutil

from control_service.cli.doctor.finding import Finding, Findings, ok, problem
from control_service.cli.doctor.subject import Subject

HOST: Final = "127.0.0.1"
# Words of the command lines that the owners of our ports have.
SGLANG: Final = frozenset({"sglang_patch.launch", "sglang.launch_server", "sglang"})
SERVICE: Final = frozenset({"control_service"})


def check(subject: Subject) -> Findings:
    """Of the run that is going on, else of the one that would be started."""
    yield _port("port", subject.port, "--port", SGLANG)
    if subject.metrics_port:
        yield _port("metrics port", subject.metrics_port, "--metrics-port", SERVICE)


def _port(check: str, port: int, option: str, ours: frozenset[str]) -> Finding:
    if _is_free(port):
        return ok(check, f"{port} is free")
    owner = _owner(port)
    if owner is None:
        who = "a process of another user"
    else:
        names = _names(owner)
        who = f"{names[0]}, process {owner.pid}"
        known = ours.intersection(names)
        if known:
            return ok(check, f"{port} is used by {min(known)}, process {owner.pid}")
    return problem(check, f"{port} is used by {who}", f"stop it, or: turbospec up {option} 0 (any free port)")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _owner(port: int) -> psutil.Process | None:
    """Who listens there; None if that is not ours to know."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr
        if listens and listens.port == port and connection.pid:
            try:
                return psutil.Process(connection.pid)
            except psutil.NoSuchProcess:
                return None
    return None


def _names(process: psutil.Process) -> list[str]:
    """What it may be known by: its name, and the words of its command line without directories."""
    try:
        return [process.name(), *(os.path.basename(word) for word in process.cmdline())]
    except psutil.Error:
        return ["a process"]
