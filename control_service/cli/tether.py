"""`tether.py PID PROGRAM ARG...`: a program that gets SIGTERM when its parent, PID, dies, even by SIGKILL.

The kernel delivers the signal (PR_SET_PDEATHSIG), and the setting survives the exec that makes this process
the program. It is made here and not between fork and exec in the parent, where no Python code must run once
there are threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def main(argv: list[str]) -> None:
    parent, program = int(argv[0]), argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
