"""The control service: its socket, whether it answers, and how it says it is."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control_service.cli.channel import open_channel
from control_service.cli.doctor.finding import Finding, Findings, Level, ok, problem, warning
from control_service.cli.doctor.subject import Subject
from control_service.server.address import Address, AddressError
from control_service.server.app import HEALTH_COMPONENTS

CALL_TIMEOUT_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 1.0
START: Final = "start it: turbospec up, or turbospec control"
# Bits that let another user connect, and so steer engines.
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_Health = health_pb2.HealthCheckResponse


def check(subject: Subject) -> Findings:
    """From the socket's file to the service's own word."""
    if subject.control_address is None:
        yield warning("service", "none is running, as far as this set-up tells", START)
        return
    try:
        address = Address.parse(subject.control_address)
    except AddressError as error:
        yield problem("service", str(error), "name it as unix:/absolute/path or host:port")
        return
    if address.is_unix:
        socket_findings = list(_socket(Path(address.path)))
        yield from socket_findings
        if any(finding.check == "socket" and finding.level is Level.PROBLEM for finding in socket_findings):
            return
    yield from _health(subject.control_address)


def _socket(path: Path) -> Findings:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        yield problem("socket", f"{path}: {error.strerror}", START)
        return
    if not stat.S_ISSOCK(mode):
        yield problem("socket", f"{path} is not a socket", f"remove it, and {START}")
        return
    if mode & OTHERS:
        yield problem(
            "socket mode",
            f"{path} has mode {stat.S_IMODE(mode):04o}: other users can steer engines",
            f"chmod 600 {path}",
        )
    else:
        yield ok("socket mode", f"{stat.S_IMODE(mode):04o}, for its owner alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except OSError as error:
            reason = error.strerror or "nobody accepts"
            yield problem(
                "socket",
                f"{path} is stale: {reason}; the service that made it is gone",
                f"{START}; it clears the file away",
            )
            return
    yield ok("socket", f"{path} is live")


def _health(address: str) -> Findings:
    with open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for component in HEALTH_COMPONENTS:
            finding = _component(stub, component, address)
            yield finding
            if component == "" and finding.level is Level.PROBLEM:
                return


def _component(stub: health_pb2_grpc.HealthStub, component: str, address: str) -> Finding:
    # The empty name is the server as a whole.
    check = f"health of {component.rpartition('.')[2]}" if component else "service"
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=component), timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        code = error.code()
        if code is grpc.StatusCode.NOT_FOUND:
            return warning(check, "the service does not know it", "is it of this version? turbospec version")
        return problem(check, f"no answer at {address} ({code.name})", START)
    if answer.status != _Health.SERVING:
        status = _Health.ServingStatus.Name(answer.status)
        return problem(check, status, "it is stopping, or says why in its log")
    return ok(check, f"serving at {address}" if not component else "serving")
