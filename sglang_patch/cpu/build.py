"""Compiles the C++ kernels once per machine, source and torch version.

The library lands in `${TURBOSPEC_CACHE_DIR:-~/.cache/turbospec}/kernels`, named by a hash of everything that
shapes it. A file lock lets processes that want it at the same time wait for one build; the finished library
appears by rename, so a build that is cut off leaves nothing that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils import cpp_extension

logger = logging.getLogger(__name__)

SOURCE_DIRECTORY = Path(__file__).parent / "csrc"

# -ffp-contract=fast lets the compiler use fused multiply-add; nothing here lets it reorder a sum.
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++20",
    "-fPIC",
    "-fopenmp",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
)


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message says what to do."""


def cache_directory() -> Path:
    """Where finished libraries are kept."""
    root = os.environ.get("TURBOSPEC_CACHE_DIR") or Path.home() / ".cache" / "turbospec"
    return Path(root) / "kernels"


def library_path(directory: Path | None = None, sources: Path = SOURCE_DIRECTORY) -> Path:
    """Where the compiled kernels are, or will be once they are wanted."""
    return (directory or cache_directory()) / f"turbospec_cpu-{_fingerprint(sources)}.so"


def library(directory: Path | None = None, sources: Path = SOURCE_DIRECTORY) -> Path:
    """Path of the compiled kernels, compiling them if this machine has not yet.

    Raises:
        BuildError: no compiler, or it failed.
    """
    target = library_path(directory, sources)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / "build.lock"):
        if not target.exists():
            _build(sources, target)
    return target


def compiler() -> str:
    """The C++ compiler: `$CXX`, else g++ (the kernels use GCC's vector extensions)."""
    wanted = os.environ.get("CXX") or "g++"
    found = shutil.which(wanted)
    if found is None:
        raise BuildError(
            f"the CPU kernels are compiled at first use and the C++ compiler {wanted!r} is not on the PATH; "
            "install g++ (on Debian or Ubuntu: apt-get install g++) or name one in CXX"
        )
    return found


def _fingerprint(sources: Path) -> str:
    digest = hashlib.sha256()
    for part in (*FLAGS, torch.__version__, platform.machine(), _processor(), os.environ.get("CXX", "g++")):
        digest.update(part.encode() + b"\0")
    for path in _source_files(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


def _source_files(sources: Path) -> list[Path]:
    return sorted(path for path in sources.iterdir() if path.suffix in {".cpp", ".h"})


def _processor() -> str:
    """What -march=native depends on: a cache directory may be shared between machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(sources: Path, target: Path) -> None:
    cxx = compiler()
    units = [path for path in _source_files(sources) if path.suffix == ".cpp"]
    logger.warning("Compiling the CPU kernels once (%d files, up to a minute): %s", len(units), target)
    started_s = time.monotonic()
    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        objects = [Path(scratch) / f"{unit.stem}.o" for unit in units]
        commands = [
            [cxx, *FLAGS, *includes, "-c", str(unit), "-o", str(output)]
            for unit, output in zip(units, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        finished = Path(scratch) / target.name
        libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch_cpu", "-lc10"]
        _run([cxx, "-shared", "-fopenmp", *map(str, objects), *libraries, "-o", str(finished)])
        finished.replace(target)
    logger.warning("Compiled the CPU kernels in %.0f s", time.monotonic() - started_s)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.splitlines()[-20:])
        shown = " ".join(command)
        raise BuildError(f"compiling the CPU kernels failed (exit {done.returncode}): {shown}\n{tail}")
