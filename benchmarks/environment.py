"""Where a benchmark ran: what somebody needs who wants to compare numbers."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.results import Environment

PACKAGES = ("sglang", "torch", "turbospec", "grpcio")


def describe(device: str) -> Environment:
    """This machine, these versions, this commit, now."""
    return Environment(
        started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cpu_model=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=psutil.virtual_memory().total / 2**30,
        accelerator=device,
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in PACKAGES},
        git_commit=_git_commit(),
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git_commit() -> str:
    """The commit checked out, with `+changes` if files differ from it."""
    root = Path(__file__).parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()
