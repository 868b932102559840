"""Start the released SGLang with our plugins and, for `--device cpu`, with our CPU kernels.

Usage: `python -m sglang_patch.launch <SGLang flags>`. The flags are SGLang's own. With `--device cpu` on the
command line a few defaults are added where the user has not decided; every other device gets a plain SGLang
launch.

Top-level code runs again in every process that SGLang spawns (as `__mp_main__`), before SGLang is imported
there.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from sglang_patch.cpu import activate

# Flag -> the flags that express a decision of the user's about the same thing.
CPU_FLAG_DEFAULTS: dict[str, tuple[str, ...]] = {
    "--disable-cuda-graph": ("--disable-cuda-graph", "--cuda-graph-bs", "--cuda-graph-max-bs"),
    "--sleep-on-idle": ("--sleep-on-idle",),
    "--skip-server-warmup": ("--skip-server-warmup", "--warmups"),
}


def device_of(argv: list[str]) -> str | None:
    """The value of the last `--device`, as argparse would take it."""
    device = None
    for position, word in enumerate(argv):
        if word == "--device" and position + 1 < len(argv):
            device = argv[position + 1]
        elif word.startswith("--device="):
            device = word.partition("=")[2]
    return device


def with_cpu_defaults(argv: list[str]) -> list[str]:
    """`argv` plus the CPU defaults about which the user has not decided."""
    given = {word.partition("=")[0] for word in argv}
    return argv + [flag for flag, same in CPU_FLAG_DEFAULTS.items() if given.isdisjoint(same)]


def main(argv: list[str]) -> None:
    """Run the server until it stops; leave no process behind."""
    if device_of(argv) == "cpu":
        argv = with_cpu_defaults(argv)
        _use_cpu_kernels()
    from sglang.srt.plugins import load_plugins  # noqa: PLC0415  (after the kernels are on the path)

    load_plugins()
    from sglang.launch_server import run_server  # noqa: PLC0415
    from sglang.srt.server_args import prepare_server_args  # noqa: PLC0415
    from sglang.srt.utils import kill_process_tree  # noqa: PLC0415

    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        run_server(prepare_server_args(argv))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def _use_cpu_kernels() -> None:
    activate.mark_environment(os.environ)
    from sglang_patch.cpu.build import BuildError  # noqa: PLC0415  (imports torch: after the environment is set)

    try:
        activate.activate_in_process()
    except BuildError as error:
        sys.exit(f"turbospec: {error}")


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    main(sys.argv[1:])
elif __name__ == "__mp_main__" and activate.is_marked():
    activate.activate_in_process()
