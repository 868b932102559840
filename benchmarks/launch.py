"""`sglang_patch.launch` for a server that is stopped between the slices of its turns, or has arms inside.

Usage: `python -m benchmarks.launch <SGLang flags>`. Top-level code runs again in every process that SGLang
spawns, as `__mp_main__`, before our plugin is imported there.
"""

from __future__ import annotations

import sys

from benchmarks import arms, turn_clock
from sglang_patch import launch
from sglang_patch.cpu import activate

if __name__ == "__main__":
    launch.main(sys.argv[1:])
elif __name__ == "__mp_main__":
    turn_clock.install()
    if activate.is_marked():
        activate.activate_in_process()
    arms.install()
