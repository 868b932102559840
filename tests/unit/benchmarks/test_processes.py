"""A benchmark leaves no process behind, whatever its servers do."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.processes import CpuMeter, ManagedProcess, ProcessFailed, stop_all
from tests.support.wait import eventually

WAIT_S = 20.0
# Starts a child of its own, says its id, and waits; {ignore} may make both deaf to SIGTERM.
PARENT = """
import signal, subprocess, sys, time
{ignore}
child = subprocess.Popen([sys.executable, "-c", "{ignore}\\nimport time\\ntime.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
BUSY = """
import time
while time.process_time() < 0.5:
    pass
print("done", flush=True)
time.sleep(600)
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our children's children are told nothing, and are ended when the grace is over."""
    monkeypatch.setattr("benchmarks.processes.STOP_GRACE_S", 0.5)


def start(tmp_path: Path, code: str) -> ManagedProcess:
    return ManagedProcess("a child", [sys.executable, "-c", code], dict(os.environ), tmp_path / "child.log")


def grandchild_of(process: ManagedProcess) -> psutil.Process:
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        if text := process.log_path.read_text().strip():
            return psutil.Process(int(text.split()[0]))
        time.sleep(0.01)
    raise AssertionError("the child did not start its own")


@pytest.mark.parametrize("ignore", ["", DEAF])
def test_stopping_ends_the_whole_tree(tmp_path: Path, ignore: str) -> None:
    process = start(tmp_path, PARENT.format(ignore=ignore))
    grandchild = grandchild_of(process)
    stop_all([process])
    assert not process.alive
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_grandchild_that_outlives_its_parent_is_ended_too(tmp_path: Path) -> None:
    """A server that crashes leaves its scheduler behind, out of reach of a walk down the tree."""
    code = PARENT.format(ignore="").replace("time.sleep(600)\n", "sys.exit(3)\n")
    process = start(tmp_path, code)
    grandchild = grandchild_of(process)
    deadline_s = time.monotonic() + WAIT_S
    while process.alive and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.stop()
    psutil.wait_procs([grandchild], timeout=WAIT_S)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_failure_shows_the_end_of_the_log_and_the_status(tmp_path: Path) -> None:
    process = start(tmp_path, "print('first line'); print('cannot bind'); raise SystemExit(7)")
    deadline_s = time.monotonic() + WAIT_S
    while process.alive and time.monotonic() < deadline_s:
        time.sleep(0.01)
    with pytest.raises(ProcessFailed, match=r"(?s)a child has stopped .it ended with status 7.*cannot bind"):
        process.require_alive()


def test_programs_of_one_name_are_kept_on_one_core(tmp_path: Path) -> None:
    process = start(tmp_path, PARENT.format(ignore=""))
    try:
        grandchild = grandchild_of(process)
        cores, core = os.sched_getaffinity(process.pid), min(os.sched_getaffinity(0))
        process.pin(grandchild.cmdline()[-1], core)
        assert os.sched_getaffinity(grandchild.pid) == {core}
        assert os.sched_getaffinity(process.pid) == cores
        with pytest.raises(ProcessFailed, match=r"a child has no scheduler"):
            process.pin("scheduler", core)
    finally:
        process.stop()


def test_others_processor_time_is_what_ours_does_not_explain() -> None:
    before = CpuMeter(at_s=10.0, busy_s=100.0, ours_s=40.0)
    assert before.foreign_cores(CpuMeter(at_s=14.0, busy_s=108.0, ours_s=46.0)) == pytest.approx(0.5)
    # Clock ticks are coarse: the difference may come out below nothing.
    assert before.foreign_cores(CpuMeter(at_s=14.0, busy_s=104.0, ours_s=44.5)) == 0.0


def test_processor_time_of_a_child_counts_as_ours(tmp_path: Path) -> None:
    process = start(tmp_path, BUSY)
    deadline_s = time.monotonic() + WAIT_S
    while not process.log_path.read_text() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    try:
        assert CpuMeter.read([process]).ours_s - CpuMeter.read([]).ours_s > 0.4
    finally:
        process.stop()


def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    process = start(tmp_path, "pass")
    process.stop()
    process.stop()
    assert not process.alive


def test_a_tree_in_reins_does_nothing_until_they_are_let_go_and_can_be_ended(tmp_path: Path) -> None:
    ticks = "import time\nwhile True:\n    print('.', end='', flush=True)\n    time.sleep(0.01)\n"
    process = start(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ticks!r}])")

    def ticked(before: int) -> bool:
        return process.log_path.stat().st_size > before

    try:
        assert eventually(lambda: ticked(0), WAIT_S)
        reins = process.reins()
        reins.stop()
        time.sleep(0.2)  # the signal may take its time
        paused_at = process.log_path.stat().st_size
        assert not eventually(lambda: ticked(paused_at), 0.5)
        reins.go()
        assert eventually(lambda: ticked(paused_at), WAIT_S)
        reins.stop()
    finally:
        process.stop()
    assert not process.alive
    reins.close()  # of a tree that is gone


def test_a_program_can_be_left_out_of_the_reins_or_be_all_they_hold(tmp_path: Path) -> None:
    ticks = "import time\nwhile True:\n    print('.', end='', flush=True)\n    time.sleep(0.01)\n"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ticks!r}, 'spared'])"
    process = start(tmp_path, command)
    try:
        assert eventually(lambda: process.log_path.stat().st_size > 0, WAIT_S)
        others = process.reins(spare="spared")
        others.stop()
        paused_at = process.log_path.stat().st_size
        assert eventually(lambda: process.log_path.stat().st_size > paused_at + 20, WAIT_S)
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        process.reins(only="spared").stop()
        others.close()
        (spared,) = psutil.Process(process.pid).children()
        assert eventually(lambda: spared.status() == psutil.STATUS_STOPPED, WAIT_S)
        assert psutil.Process(process.pid).status() != psutil.STATUS_STOPPED
    finally:
        process.stop()
    assert not process.alive
