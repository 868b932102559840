"""Makes the CPU kernels SGLang's `sgl_kernel`, in this process and in every process that it spawns."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

ACTIVE_VARIABLE = "TURBOSPEC_CPU_KERNELS"
SITE_DIRECTORY = Path(__file__).parent / "site"

# One thread by default: at the sizes that make sense on a CPU, two OpenMP threads were slower than one.
# torch.compile costs 20 s at the first request and does nothing that the kernels do not already do.
ENVIRONMENT_DEFAULTS = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}


def mark_environment(environ: MutableMapping[str, str]) -> None:
    """Tell child processes that the kernels are wanted; set defaults where the user has set nothing."""
    environ[ACTIVE_VARIABLE] = "1"
    for name, value in ENVIRONMENT_DEFAULTS.items():
        environ.setdefault(name, value)
    paths = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(SITE_DIRECTORY) not in paths:
        environ["PYTHONPATH"] = os.pathsep.join([str(SITE_DIRECTORY), *paths])


def is_marked() -> bool:
    """Whether this process, or the launcher that spawned it, asked for the kernels."""
    return os.environ.get(ACTIVE_VARIABLE) == "1"


def activate_in_process() -> None:
    """Put the stand-ins first on the path, load the kernels, register hooks. Call before SGLang is imported.

    Raises:
        sglang_patch.cpu.build.BuildError: the kernels could not be compiled.
        sglang_patch.cpu.hooks.UnsupportedOnCPU: another SGLang than the kernels fit is installed.
    """
    if str(SITE_DIRECTORY) not in sys.path:
        sys.path.insert(0, str(SITE_DIRECTORY))
    import torch  # noqa: PLC0415  (only wanted once the kernels are)

    from sglang_patch.cpu import kernels  # noqa: PLC0415

    # SGLang accepts its `intel_amx` attention backend, the one with draft and verify support on a CPU,
    # only if the processor has AMX tiles. These kernels need none.
    torch.cpu._is_amx_tile_supported = lambda: True
    kernels.load()  # here, because SGLang takes a failing import of sgl_kernel for "no kernels" and goes on

    from sglang_patch.cpu import hooks  # noqa: PLC0415  (imports SGLang)

    hooks.register()
