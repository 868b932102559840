"""Sets up `.venv` with pinned dependencies: `python scripts/setup.py [--profile NAME]`, see PROFILES.

Needs nothing but Python's standard library, so that any Python from 3.11 can run it. Every step leaves a
stamp, a digest of what it was made from; a step whose stamp still holds is skipped, so a second run costs
next to nothing and an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

ROOT: Final = Path(__file__).resolve().parent.parent
MINIMUM_PYTHON: Final = (3, 11)
HEARTBEAT_S: Final = 20.0
LOG_TAIL_LINES: Final = 25
# Asked by Debian's package scripts before they start a service.
POLICY_RC: Final = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Tool:
    """A program that pip cannot bring."""

    command: str
    apt_package: str
    purpose: str


SERVE_TOOLS: Final = (
    Tool("make", "make", "runs the Makefile"),
    Tool("g++", "g++", "compiles SGLang's NGRAM drafter at its first use"),
)
MONITOR_TOOLS: Final = (
    Tool("prometheus", "prometheus", "scrapes a real run; promtool checks rules"),
    Tool("prometheus-alertmanager", "prometheus-alertmanager", "receives real alerts"),
)
TEST_TOOLS: Final = (
    *SERVE_TOOLS,
    *MONITOR_TOOLS,
    Tool("redis-server", "redis-server", "holds what two control services share"),
    Tool("chromium", "chromium", "opens the status page"),
)
IMAGE_TOOLS: Final = (
    Tool("podman", "podman", "builds and runs our container images"),
    Tool("runc", "runc", "what Podman runs them with"),
    Tool("debootstrap", "debootstrap", "makes the base image that stands in for the published ones"),
)


@dataclass(frozen=True)
class Step:
    """One `pip install`; done over only if its arguments or the content of `inputs` have changed."""

    name: str
    title: str
    arguments: tuple[str, ...]
    inputs: tuple[str, ...]

    def digest(self) -> str:
        content = hashlib.sha256("\0".join(self.arguments).encode())
        for name in self.inputs:
            content.update((ROOT / name).read_bytes())
        return content.hexdigest()


def _requirements(name: str) -> str:
    return f"requirements/{name}.txt"


def _project(extras: str) -> Step:
    return Step(
        f"project[{extras}]",
        f"installing turbospec[{extras}] from this directory",
        ("-c", _requirements("constraints"), "-e", f".[{extras}]"),
        (_requirements("constraints"), "pyproject.toml"),
    )


def _from_file(name: str, title: str, *arguments: str) -> Step:
    return Step(
        name,
        title,
        (*arguments, "-c", _requirements("constraints"), "-r", _requirements(name)),
        (_requirements("constraints"), _requirements(name)),
    )


@dataclass(frozen=True)
class Profile:
    """What is to be there: pip's steps in order, and programs that pip cannot bring."""

    steps: tuple[Step, ...]
    tools: tuple[Tool, ...] = ()


_ALL_STEPS: Final = (
    _from_file("torch", "installing torch (200 MB; far more where only its CUDA build is to be had)"),
    _from_file("engine-cpu", "installing what SGLang needs on a CPU (200 MB)"),
    _project("engine,service,cli,models,dev"),
    _from_file("no-deps", "installing SGLang and the default model's weights (130 MB)", "--no-deps"),
)

PROFILES: Final = {
    "serve": Profile(_ALL_STEPS, SERVE_TOOLS),
    "test": Profile((*_ALL_STEPS, _project("browser")), TEST_TOOLS),
    "images": Profile((), IMAGE_TOOLS),
    "monitor": Profile(_ALL_STEPS, (*SERVE_TOOLS, *MONITOR_TOOLS)),
    "service": Profile((_project("service,cli"),)),
}


class Stamps:
    """Which steps are done, kept in the environment that they were done to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._digests: dict[str, str] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._digests = {}

    def holds(self, step: Step) -> bool:
        return self._digests.get(step.name) == step.digest()

    def set(self, step: Step) -> None:
        self._digests[step.name] = step.digest()
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._digests, indent=2) + "\n")
        fresh.replace(self._path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Set up the virtual environment.")
    parser.add_argument(
        "--profile", choices=sorted(PROFILES), default="serve", help="what to install (serve)"
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (.venv)")
    arguments = parser.parse_args(argv)
    profile = PROFILES[arguments.profile]
    check_machine(profile.tools)
    venv: Path = arguments.venv.absolute()
    venv.mkdir(parents=True, exist_ok=True)
    lock = os.open(venv, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # held until this process ends
    install(venv, profile.steps)


def check_machine(tools: Sequence[Tool]) -> None:
    """Stop with one clear line if this machine cannot do it and may not be changed so that it can."""
    if sys.version_info < MINIMUM_PYTHON:
        _stop(
            f"Python is {platform.python_version()}, {'.'.join(map(str, MINIMUM_PYTHON))} or later is "
            "needed; name another, as in: make setup PYTHON=python3.12"
        )
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        _stop(f"this is {platform.system()} on {platform.machine()}; the set-up is for Linux on x86_64")
    packages = [tool.apt_package for tool in tools if shutil.which(tool.command) is None]
    if importlib.util.find_spec("ensurepip") is None:
        packages.append(f"python3.{sys.version_info.minor}-venv")
    if packages:
        apt_install(packages)


def apt_install(packages: Sequence[str]) -> None:
    """Install Debian packages if that is possible without asking for a password."""
    wanted = " ".join(packages)
    prefix = _root_prefix()
    if prefix is None or shutil.which("apt-get") is None:
        purposes = "; ".join(
            f"{tool.command} {tool.purpose}"
            for tool in (*TEST_TOOLS, *IMAGE_TOOLS)
            if tool.apt_package in packages
        )
        _stop(f"please install: {wanted}" + (f" ({purposes})" if purposes else ""))
    print(f"[setup] installing {wanted} with apt", flush=True)
    with _services_held_back(prefix):
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = _output_of([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", *command])
            if done.returncode != 0 and command[0] == "install":
                print(done.stdout, file=sys.stderr)
                _stop(f"apt could not install {wanted}; please install by hand")


@contextmanager
def _services_held_back(prefix: Sequence[str]) -> Iterator[None]:
    """Debian starts a server as it installs one; the tests start their own, on ports of their own."""
    if POLICY_RC.exists():
        yield
        return
    deny = f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY_RC} && chmod 755 {POLICY_RC}"
    _output_of([*prefix, "sh", "-c", deny])
    try:
        yield
    finally:
        _output_of([*prefix, "rm", "-f", str(POLICY_RC)])


def _output_of(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _root_prefix() -> list[str] | None:
    """What to put before a command so that it runs as root; None if nothing does."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def install(venv: Path, steps: Sequence[Step]) -> None:
    """Bring `venv` up to date, a step at a time."""
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"[setup] creating {venv}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    stamps = Stamps(venv / "turbospec-setup.json")
    due = [step for step in steps if not stamps.holds(step)]
    started_s = time.monotonic()
    for number, step in enumerate(due, start=1):
        print(f"[setup {number}/{len(due)}] {step.title}", flush=True)
        _pip_install(python, step, venv / "turbospec-setup.log")
        stamps.set(step)
    if due:
        print(f"[setup] done in {time.monotonic() - started_s:.0f} s", flush=True)


def _pip_install(python: Path, step: Step, log: Path) -> None:
    """Run pip with its output in `log`; on the screen, a sign of life now and then, and why if it failed."""
    command = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=off", "--root-user-action=ignore", *step.arguments]
    pip = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert pip.stdout is not None
    shown_s = time.monotonic()
    with log.open("w") as output:
        for line in pip.stdout:
            output.write(line)
            news = line.startswith(("Collecting ", "  Downloading ", "Installing "))
            if news and time.monotonic() - shown_s > HEARTBEAT_S:
                shown_s = time.monotonic()
                print(f"          {line.strip()[:100]}", flush=True)
    if pip.wait() != 0:
        print("\n".join(log.read_text().splitlines()[-LOG_TAIL_LINES:]), file=sys.stderr)
        _stop(f"pip failed at '{step.title}'; all of its output is in {log}")


def _stop(message: str) -> NoReturn:
    sys.exit(f"setup: {message}")


if __name__ == "__main__":
    main()
