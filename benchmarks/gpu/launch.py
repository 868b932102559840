"""`sglang_patch.launch`, with an acceptance rate that follows the clock.

Usage: `python -m benchmarks.gpu.launch <SGLang flags>` with the schedule in TURBOSPEC_BENCH_ACCEPTANCE.
Top-level code runs again in every process that SGLang spawns, as `__mp_main__`.
"""

from __future__ import annotations

import inspect
import os
import sys

from benchmarks.gpu.acceptance import VARIABLE, RateSchedule
from sglang_patch import launch
from sglang_patch.cpu import activate

PARAMETERS = ["simulate_acc_len", "simulate_acc_method", "max_len"]


def install() -> None:
    """Let the schedule draw what SGLang's simulation accepts.

    Raises:
        SystemExit: SGLang has no such function any more; a benchmark without it would be a lie.
    """
    from sglang.srt.speculative import spec_utils  # noqa: PLC0415  (after the CPU kernels are on the path)

    found = getattr(spec_utils, "sample_simulated_acc_len", None)
    if found is None or list(inspect.signature(found).parameters) != PARAMETERS:
        sys.exit(f"spec_utils.sample_simulated_acc_len{PARAMETERS} is not in this SGLang")
    spec_utils.sample_simulated_acc_len = RateSchedule.parse(os.environ[VARIABLE]).sampler()


if __name__ == "__main__":
    RateSchedule.parse(os.environ[VARIABLE])
    launch.main(sys.argv[1:])
elif __name__ == "__mp_main__":
    if activate.is_marked():
        activate.activate_in_process()
    install()
