"""Whether the programs that were started are ready to serve."""

from __future__ import annotations

from typing import Final

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control_service.cli.channel import open_channel

PROBE_TIMEOUT_S: Final = 2.0


def sglang_ready(endpoint: str) -> bool:
    """SGLang answers /health with 200 once its model is loaded and its scheduler runs."""
    try:
        return httpx.get(f"{endpoint}/health", timeout=PROBE_TIMEOUT_S).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def service_ready(control_address: str) -> bool:
    """The standard gRPC health service says SERVING."""
    with open_channel(control_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
