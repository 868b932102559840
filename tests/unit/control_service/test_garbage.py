"""What is kept of every step must not have the whole process looked through every few seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Keeps the newest tuples, as a session keeps its newest decisions; counts full collections meanwhile.
PROGRAM = """
import gc
from collections import deque
from control_service.server import garbage
if {settled}:
    garbage.settle()
full = []
gc.callbacks.append(lambda phase, info: full.append(phase) if info["generation"] == 2 else None)
kept = deque(maxlen=50_000)
for number in range(400_000):
    kept.append(([number], [number]))
cycle = []
cycle.append(cycle)
print(len(full), gc.get_freeze_count())
"""


@pytest.mark.parametrize("settled", [False, True])
def test_full_collections_are_rare_once_the_service_is_up(settled: bool) -> None:
    """In a process of its own: what is frozen stays so."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(settled=settled)], check=True, capture_output=True, text=True
    )
    full, frozen = map(int, done.stdout.split())
    assert (full == 0) is settled, "the defaults do collect: the test could fail"
    assert (frozen > 0) is settled
