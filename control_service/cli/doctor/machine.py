"""This machine: Python, platform, GPU."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import Final

from control_service.cli.doctor.finding import Findings, ok, problem, warning
from control_service.cli.doctor.subject import Subject
from control_service.cli.options import resolve_device

PYTHON_MIN: Final = (3, 11)


def check(subject: Subject) -> Findings:
    """Whether our programs can run here at all."""
    found = f"{platform.python_version()} at {sys.executable}, turbospec {version('turbospec')}"
    if sys.version_info >= PYTHON_MIN:
        yield ok("python", found)
    else:
        yield problem("python", found, "install Python 3.11 or later and set up anew: make setup PYTHON=...")
    system = f"{platform.system()} on {platform.machine()}"
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        yield ok("platform", system)
    else:
        yield warning("platform", f"{system}, where nothing was tested", "use Linux on x86_64")
    yield from _gpu(subject)


def _gpu(subject: Subject) -> Findings:
    visible = resolve_device("auto")
    if subject.device == "cuda" and visible != "cuda":
        yield problem(
            "gpu",
            "--device is 'cuda', but the driver lists no GPU (nvidia-smi -L)",
            "install the NVIDIA driver or make the GPU visible to this container, or use --device cpu",
        )
    elif subject.device == "cpu" and visible == "cuda":
        yield warning(
            "gpu", "--device is 'cpu', but there is a GPU", "leave --device out, or use --device cuda"
        )
    else:
        yield ok("gpu", "visible" if visible == "cuda" else "none; SGLang runs on the CPU")
