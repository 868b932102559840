"""Builds and runs our images with Podman, as compose.yaml says they are built and run.

No registry is needed: a Debian of our own making stands in for the published base image. Isolation, limits
and runtime are chosen so that it works on a machine that is a container itself.
"""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support.compose_file import ROOT, Service
from tests.support.compose_native import Differences

STAND_IN: Final = "localhost/turbospec/stand-in:bookworm"
STAND_IN_PACKAGES: Final = ("python3", "python3-venv", "python3-pip", "ca-certificates")
ULIMITS: Final = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096")
BUILD_TIMEOUT_S: Final = 3_000
PREFIX: Final = "turbospec-images-test-"


def podman(*words: str, timeout_s: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One podman command; its output is shown if it fails."""
    done = subprocess.run(
        ["podman", *words],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0 or not check, f"podman {' '.join(words)}:\n{done.stdout[-6000:]}"
    return done


def make_stand_in(scratch: Path) -> None:
    """A minimal Debian with Python, unless it was made before."""
    if podman("image", "exists", STAND_IN, check=False).returncode == 0:
        return
    tree = scratch / "debian"
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(STAND_IN_PACKAGES)}",
            "bookworm",
            str(tree),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["podman", "import", "-", STAND_IN], check=True, stdin=tar.stdout, stdout=subprocess.DEVNULL
        )
    assert tar.returncode == 0


def build(service: Service, scratch: Path, arguments: Mapping[str, str]) -> str:
    """Build a service's image by its build section, some of its arguments replaced; returns its name."""
    section = service.raw["build"]
    assert set(arguments) <= set(section["args"]), f"{service.name}: {section['args']}"
    image: str = service.raw["image"]
    pip_conf = scratch / "pip.conf"
    volumes = write_pip_conf(pip_conf)
    podman(
        *("build", "--isolation", "chroot", *ULIMITS),
        # How this machine reaches packages; only while building, and in no layer.
        *(
            flag
            for path in [*volumes, Path("/etc/apt/apt.conf.d")]
            for flag in ("--volume", f"{path}:{path}:ro")
        ),
        *("--secret", f"id=pip_conf,src={pip_conf}"),
        *(flag for name, value in arguments.items() for flag in ("--build-arg", f"{name}={value}")),
        *("--file", str(ROOT / section["dockerfile"]), "--tag", image, str(ROOT / section["context"])),
        timeout_s=BUILD_TIMEOUT_S,
    )
    return image


def write_pip_conf(path: Path) -> list[Path]:
    """pip's configuration, environment included, as a file; returns what of this machine it names."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    # Sorted, so that the environment (":env:") is overwritten by nothing: pip lets it win.
    for line in sorted(listed.splitlines(), reverse=True):
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    config = configparser.RawConfigParser()
    config["global"] = settings
    with path.open("w") as file:
        config.write(file)
    words = [word for value in settings.values() for word in value.split()]
    files = {Path(word) for word in words if word.startswith("/")}
    # An index's pages link to files beside it.
    indexes = {Path(word.removeprefix("file://")).parent for word in words if word.startswith("file://")}
    return sorted(found for found in files | indexes if found.exists())


class Containers:
    """Containers of the project's services, and their volumes; `remove` leaves nothing behind."""

    def __init__(self, differences: Differences) -> None:
        self._differences = differences
        self._names: list[str] = []
        self._volumes: set[str] = set()

    def start(self, service: Service, *, wait: bool = False) -> None:
        """As compose starts it, on the host's network; `wait`: until it has ended, well."""
        raw = service.raw
        volumes = {target: f"{PREFIX}{source}" for target, source in service.mounts.items()}
        self._volumes |= set(volumes.values())
        self._names.append(service.name)
        environment = {
            name: self._differences.with_addresses(value) for name, value in service.environment.items()
        }
        podman(
            *(
                "--runtime",
                "runc",
                "run",
                "--name",
                PREFIX + service.name,
                "--network=host",
                "--cgroupns=host",
                *ULIMITS,
            ),
            *(() if wait else ("--detach",)),
            *("--user", raw["user"]),
            *(("--read-only", "--read-only-tmpfs=false") if raw.get("read_only") else ()),
            *(f"--cap-drop={capability}" for capability in raw["cap_drop"]),
            *(f"--security-opt={option.removesuffix(':true')}" for option in raw["security_opt"]),
            *(f"--tmpfs={place}" for place in raw.get("tmpfs", [])),
            *(f"--volume={name}:{target}" for target, name in volumes.items()),
            *(f"--env={name}={value}" for name, value in environment.items()),
            raw["image"],
            *map(self._differences.with_addresses, service.command),
            timeout_s=600,
        )

    def run_in(self, name: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec`."""
        here = map(self._differences.with_addresses, command)
        return podman("exec", PREFIX + name, *here, check=False)

    def is_healthy(self, service: Service) -> bool:
        """By the service's own health check."""
        assert service.health_command is not None
        return self.run_in(service.name, service.health_command).returncode == 0

    def stop(self, name: str, grace_s: int) -> int:
        """As `docker compose stop`; returns the exit status."""
        podman("stop", "--time", str(grace_s), PREFIX + name, timeout_s=grace_s + 60)
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", PREFIX + name).stdout)

    def log(self, name: str) -> str:
        return podman("logs", "--tail", "60", PREFIX + name, check=False).stdout

    def remove(self) -> None:
        for name in reversed(self._names):
            podman("rm", "--force", "--ignore", "--time", "5", PREFIX + name, check=False)
        for volume in self._volumes:
            podman("volume", "rm", "--force", volume, check=False)
