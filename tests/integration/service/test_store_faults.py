"""A disk that is full or read-only: the service runs on, says so once, and saves once there is room."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service.synthetic_engine import Physics, cheap_drafts, connected_engine, make_profile
from tests.integration.service.test_process import START_TIMEOUT_S, clean_environment
from tests.support.wait import eventually

PHYSICS = Physics(0.8, cheap_drafts)
LEARNING_STEPS = 150
# Room for a store that is in use, and little else.
DISK_BYTES = 256 << 10


class ServiceOnItsOwnDisk:
    """A service whose store lies on a small tmpfs, in a mount namespace that ends with it."""

    def __init__(self, directory: Path, *, read_only: bool) -> None:
        self.disk = directory / "disk"
        self.disk.mkdir()
        self._ready = directory / "ready.json"
        self._log = directory / "service.log"
        service = [
            *(sys.executable, "-m", "control_service", "--listen", "127.0.0.1:0", "--metrics-listen", ""),
            *("--store", str(self.disk / "learned.sqlite3"), "--store-save-interval-s", "0.1"),
            *("--ready-file", str(self._ready), "--log-format", "json"),
        ]
        mode = "ro" if read_only else "rw"
        mount = f"mount -t tmpfs -o {mode},size={DISK_BYTES} none {shlex.quote(str(self.disk))}"
        with self._log.open("wb") as log:
            self.child = subprocess.Popen(
                [
                    "unshare",
                    "--map-root-user",
                    "--mount",
                    "sh",
                    "-c",
                    f"{mount} && exec {shlex.join(service)}",
                ],
                stdout=log,
                stderr=log,
                env=clean_environment(),
            )

    def wait_ready(self) -> str:
        assert eventually(self._ready.exists, START_TIMEOUT_S), self._log.read_text()
        return str(json.loads(self._ready.read_text())["grpc"][0])

    @property
    def inside(self) -> Path:
        """The disk as the service sees it."""
        return Path(f"/proc/{self.child.pid}/root{self.disk}")

    def make_writable(self) -> None:
        """From outside, as an operator would."""
        namespaces = f"/proc/{self.child.pid}/ns"
        enter = [
            "nsenter",
            f"--user={namespaces}/user",
            f"--mount={namespaces}/mnt",
            "--preserve-credentials",
        ]
        subprocess.run([*enter, "mount", "-o", "remount,rw", str(self.disk)], check=True)

    def events(self) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def said(self, event: str) -> int:
        return sum(line["event"] == event for line in self.events())

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(20)


@pytest.fixture
def service(tmp_path: Path, fault: str) -> Iterator[ServiceOnItsOwnDisk]:
    running = ServiceOnItsOwnDisk(tmp_path, read_only=fault == "read-only")
    yield running
    running.close()


async def learn(address: str, epoch: int) -> None:
    async with connected_engine(address, make_profile(epoch=epoch), PHYSICS) as engine:
        await engine.run(LEARNING_STEPS, batch_size=3)
        await engine.flush()
        assert len(engine.leases) == LEARNING_STEPS


@pytest.mark.parametrize("fault", ["full", "read-only"])
async def test_a_disk_that_takes_nothing_costs_no_decision_and_is_said_once(
    fault: str, service: ServiceOnItsOwnDisk
) -> None:
    address = service.wait_ready()
    filler = service.inside / "filler"
    if fault == "full":
        # In mid-run: something was saved before.
        await learn(address, epoch=1)
        assert eventually((service.inside / "learned.sqlite3").exists)
        fill(filler)
    for epoch in (2, 3):
        await learn(address, epoch)
        # Time for several more tries, none of which may be said again.
        time.sleep(0.4)
    assert eventually(lambda: service.said("learned_state_not_saved") == 1)
    if fault == "full":
        filler.unlink()
    else:
        service.make_writable()
    await learn(address, epoch=4)
    assert eventually(lambda: service.said("learned_state_saved_again") == 1)
    service.child.send_signal(signal.SIGTERM)
    assert service.child.wait(20) == 0
    assert service.said("learned_state_not_saved") == 1
    (reason,) = [line["reason"] for line in service.events() if line["event"] == "learned_state_not_saved"]
    assert str(service.disk) in reason


def fill(path: Path) -> None:
    """Take all the room that is left."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(descriptor, b"\0" * 4_096):
            pass
    except OSError:
        pass
    finally:
        os.close(descriptor)
