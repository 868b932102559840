"""Runs services of compose.yaml without containers: their very commands and files, at other places.

Like compose it starts a service once those that it depends on are ready, by their own health checks.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.compose_file import ROOT, Service, start_order

HEALTHY_WITHIN_S: Final = 600
STOP_GRACE_S: Final = 30
# A health check is a program of its own: asked all the time it would slow down what it waits for.
POLL_S: Final = 1
# What a process needs of the machine; no TURBOSPEC_ variable of the caller's gets through.
INHERITED: Final = ("PATH", "PYTHONPATH", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Differences:
    """Everything that is not as it is in the containers. Services, commands, flags and files are."""

    # Port that compose.yaml names -> port here, on 127.0.0.1.
    ports: Mapping[int, int]
    # Names that stand for a service's address.
    hosts: Sequence[str]
    # Path in a container -> path here, for what is not mounted from the repository.
    paths: Mapping[str, Path]
    # What a command begins with -> what it is called here.
    programs: Mapping[str, str]
    # Program that an image starts, for services whose command holds only its flags.
    entrypoints: Mapping[str, str] = field(default_factory=dict)

    def with_addresses(self, text: str) -> str:
        """`text` with the addresses and ports in it as they are here."""
        hosts = "|".join(map(re.escape, (*self.hosts, "0.0.0.0", "127.0.0.1")))

        def address(match: re.Match[str]) -> str:
            port = int(match[1])
            return f"127.0.0.1:{self.ports.get(port, port)}"

        text = re.sub(rf"(?<![\w.-])(?:{hosts}):(\d+)", address, text)
        if text == "0.0.0.0":
            return "127.0.0.1"
        # A port that is a word of its own, as in --port 30000.
        return str(self.ports.get(int(text), text)) if text.isdecimal() else text


class NativeStack:
    """Owns the processes of the services from `up` to `down`."""

    def __init__(self, chosen: Mapping[str, Service], differences: Differences, directory: Path) -> None:
        self._chosen = chosen
        self._differences = differences
        self._directory = directory
        self._paths = {**differences.paths, **self._copies_of_mounts()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "logs").mkdir()

    def up(self) -> None:
        """Start all, each when its dependencies allow it; return when all are healthy that can be asked."""
        for service in start_order(self._chosen):
            for name, condition in service.depends_on.items():
                self._wait(self._chosen[name], condition)
            self._start(service)
        for service in self._chosen.values():
            if service.health_command is not None:
                self._wait(service, "service_healthy")

    def down(self) -> None:
        """Stop all, the last started first."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def stop(self, name: str) -> None:
        """As compose does: ask, then insist."""
        process = self._processes[name]
        for number, patience_s in ((signal.SIGTERM, STOP_GRACE_S), (signal.SIGKILL, STOP_GRACE_S)):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(patience_s)
                except subprocess.TimeoutExpired:
                    continue
        assert process.poll() is not None, f"{name} cannot be stopped"

    def is_healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        service = self._chosen[name]
        assert service.health_command is not None, f"{name} has no health check"
        return self.run(name, service.health_command).returncode == 0

    def run(self, name: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """A command in the service's environment, as `docker compose exec` runs it."""
        return subprocess.run(
            self._command(command),
            env=self._environment(self._chosen[name]),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def log(self, name: str) -> str:
        return (self._directory / "logs" / name).read_text(errors="replace")

    def here(self, text: str) -> str:
        """`text` with addresses and paths as they are here."""
        with_addresses = self._differences.with_addresses(text)
        return self._path_pattern().sub(lambda match: str(self._paths[match[1]]), with_addresses)

    # -- starting ------------------------------------------------------------

    def _start(self, service: Service) -> None:
        entrypoint = self._differences.entrypoints.get(service.name)
        command = self._command([*([entrypoint] if entrypoint else []), *service.command])
        with (self._directory / "logs" / service.name).open("wb") as log:
            self._processes[service.name] = subprocess.Popen(
                command,
                env=self._environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
            )

    def _wait(self, service: Service, condition: str) -> None:
        process = self._processes[service.name]
        if condition == "service_completed_successfully":
            assert process.wait(HEALTHY_WITHIN_S) == 0, self._end_of(service.name)
            return
        assert condition == "service_healthy", condition
        deadline_s = time.monotonic() + HEALTHY_WITHIN_S
        while not self.is_healthy(service.name):
            assert process.poll() is None, f"{service.name} ended: {self._end_of(service.name)}"
            assert time.monotonic() < deadline_s, (
                f"{service.name} is not healthy: {self._end_of(service.name)}"
            )
            time.sleep(POLL_S)

    def _end_of(self, name: str) -> str:
        return "\n".join(self.log(name).splitlines()[-40:])

    # -- what is different ---------------------------------------------------

    def _command(self, words: Sequence[str]) -> list[str]:
        program, *arguments = words
        return [self._differences.programs.get(program, program), *map(self.here, arguments)]

    def _environment(self, service: Service) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {**inherited, **{name: self.here(value) for name, value in service.environment.items()}}

    def _copies_of_mounts(self) -> dict[str, Path]:
        """Files of the repository with addresses as they are here; for a volume, an empty directory."""
        places: dict[str, Path] = {}
        for service in self._chosen.values():
            for target, source in service.mounts.items():
                if target in self._differences.paths or target in places:
                    continue
                place = self._directory / "mounts" / target.strip("/").replace("/", "-")
                if source.startswith("./"):
                    shutil.copytree(ROOT / source, place)
                    for file in place.rglob("*.yaml"):
                        file.write_text(self._differences.with_addresses(file.read_text()))
                else:
                    place.mkdir(parents=True, mode=0o700)
                places[target] = place
        return places

    def _path_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._paths, key=len, reverse=True)
        return re.compile(rf"(?<![\w/.-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])")
