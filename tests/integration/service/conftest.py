"""A control service in this process, on a Unix socket and on TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_service.server.app import ControlService
from control_service.settings import ServiceSettings


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(
        listen=f"unix:{tmp_path}/run/control.sock,127.0.0.1:0",
        # Its HTTP server takes half a second to stop; the tests that scrape turn it on.
        metrics_listen="",
        shutdown_grace_s=0.2,
        engines_max=3,
        streams_max=4,
    )


@pytest.fixture
async def service(settings: ServiceSettings) -> AsyncIterator[ControlService]:
    running = ControlService(settings)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def unix_target(service: ControlService) -> str:
    return str(service.addresses[0])


@pytest.fixture
def tcp_target(service: ControlService) -> str:
    return str(service.addresses[1])
