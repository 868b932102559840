"""The service as a process: ready file, sockets, signals, errors that name the setting."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_service.server.address import AddressError
from control_service.server.app import ControlService
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import Physics, cheap_drafts, connected_engine, make_profile

START_TIMEOUT_S = 30.0


class Process:
    """One run of `python -m control_service`."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.ready_file = directory / "ready.json"
        arguments = [sys.executable, "-m", "control_service", "--ready-file", str(self.ready_file), *flags]
        self.child = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
        )

    def wait_ready(self) -> dict[str, object]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready_file.exists():
            assert self.child.poll() is None, self.child.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return dict(json.loads(self.ready_file.read_text()))

    def stop(self, number: signal.Signals) -> tuple[int, str, str]:
        self.child.send_signal(number)
        out, err = self.child.communicate(timeout=20)
        return self.child.returncode, out, err


def clean_environment() -> dict[str, str]:
    ours = {name for name in os.environ if name.startswith("TURBOSPEC_")}
    # What tests/conftest.py sets stays: without it the service would write below the user's home.
    return {
        name: value for name, value in os.environ.items() if name not in ours - {"TURBOSPEC_SERVICE_STORE"}
    }


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def process(tmp_path: Path, socket_path: Path) -> Iterator[Process]:
    flags = ("--listen", f"unix:{socket_path},127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    running = Process(tmp_path, *flags, "--log-format", "json")
    yield running
    if running.child.poll() is None:
        running.child.kill()
        running.child.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serves_until_told_to_stop_and_leaves_nothing(
    number: signal.Signals, process: Process, socket_path: Path
) -> None:
    ready = process.wait_ready()
    addresses = ready["grpc"]
    assert isinstance(addresses, list)
    assert addresses[0] == f"unix:{socket_path}"
    assert not addresses[1].endswith(":0")
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
    async with connected_engine(str(addresses[1]), make_profile(), Physics(0.8, cheap_drafts)) as engine:
        await engine.run(10, batch_size=1)
        code, out, err = process.stop(number)
        assert (await engine.end())[0].name == "UNAVAILABLE"
    assert code == 0
    assert out.splitlines() == [
        f"turbospec control service ready: grpc {','.join(addresses)} metrics {ready['metrics']}"
    ]
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[0] == "engine_connected"
    assert events[-1] == "stopped"
    assert not socket_path.exists()
    assert not process.ready_file.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--lease-valid-for-steps", "0"), ("lease_valid_for_steps", "greater than or equal to 1", "0")),
        (("--listen", "nonsense"), ("listen", "nonsense", "host:port")),
        (("--listen", "unix:relative.sock"), ("listen", "absolute")),
        (("--listen", "0.0.0.0:0", "--metrics-listen", ""), ("0.0.0.0:0", "--insecure")),
        (("--metrics-listen", "unix:/x"), ("metrics_listen", "host:port")),
        (("--tls-cert-file", "/x"), ("tls_client_ca_file", "missing: tls_key_file", "None")),
        (("--mode", "canary:100"), ("mode", "canary:100", "1 to 99")),
        (("--admin-token-file", "/nowhere"), ("admin_token_file", "/nowhere", "readable")),
    ],
)
def test_settings_that_cannot_be_used_stop_it_by_name(
    flags: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    code, _, err = _run_to_end(Process(tmp_path, *flags))
    assert code == 2
    assert "Traceback" not in err
    for word in words:
        assert word in err


def _run_to_end(process: Process) -> tuple[int, str, str]:
    out, err = process.child.communicate(timeout=START_TIMEOUT_S)
    return process.child.returncode, out, err


async def test_a_stale_socket_is_replaced_and_a_live_one_refused(socket_path: Path) -> None:
    socket_path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(socket_path))
    settings = ServiceSettings(listen=f"unix:{socket_path}", metrics_listen="", shutdown_grace_s=0.0)
    first = ControlService(settings)
    await first.start()
    with pytest.raises(AddressError, match="another service is listening"):
        await ControlService(settings).start()
    # The refused one must not take the socket of the other away.
    assert socket_path.is_socket()
    async with connected_engine(
        str(first.addresses[0]), make_profile(), Physics(0.8, cheap_drafts)
    ) as engine:
        await engine.ask(1)
    await first.stop()


async def test_a_file_that_is_no_socket_is_left_alone(socket_path: Path) -> None:
    socket_path.parent.mkdir()
    socket_path.write_text("precious")
    with pytest.raises(AddressError, match="is not a socket"):
        await ControlService(ServiceSettings(listen=f"unix:{socket_path}", metrics_listen="")).start()
    assert socket_path.read_text() == "precious"


async def test_a_taken_metrics_port_is_refused_and_nothing_stays_bound(socket_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service = ControlService(
            ServiceSettings(listen=f"unix:{socket_path}", metrics_listen=f"127.0.0.1:{port}")
        )
        with pytest.raises(AddressError, match=str(port)):
            await service.start()
    assert not socket_path.exists()
