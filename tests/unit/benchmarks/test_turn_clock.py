"""A clock that stands still while its server is stopped, seen from both sides."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.turn_clock import VARIABLE, TurnClock, reader

PAUSE_S = 0.2
SERVER = """
import time
from benchmarks.turn_clock import install
print(time.monotonic_ns())
install()
print(time.monotonic_ns())
"""


def test_the_time_of_a_stop_is_left_out(tmp_path: Path) -> None:
    clock = TurnClock(tmp_path / "clock")
    began_s, clock_s = time.monotonic(), clock.now_s()
    clock.stop()
    stopped_s = clock.now_s()
    time.sleep(PAUSE_S)
    clock.stop()  # already is
    assert clock.now_s() == stopped_s
    clock.go()
    clock.go()
    passed_s = time.monotonic() - began_s
    assert clock_s <= stopped_s <= clock.now_s()
    assert clock.now_s() - clock_s <= time.monotonic() - began_s - PAUSE_S
    assert passed_s >= PAUSE_S


def test_the_server_reads_the_same_time(tmp_path: Path) -> None:
    clock = TurnClock(tmp_path / "clock")
    read_ns = reader(tmp_path / "clock")
    clock.stop()
    time.sleep(PAUSE_S)
    clock.go()
    before_s, read_s, after_s = clock.now_s(), read_ns() / 1e9, clock.now_s()
    assert before_s <= read_s <= after_s


def test_a_stop_in_the_middle_of_a_reading_does_not_move_the_clock_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, system_ns, stops = TurnClock(tmp_path / "clock"), time.monotonic_ns, [PAUSE_S]
    before_ns = reader(tmp_path / "clock")()

    def interrupted_ns() -> int:
        now_ns = system_ns()
        if stops:
            pause_s = stops.pop()
            clock.stop()
            time.sleep(pause_s)
            clock.go()
        return now_ns

    monkeypatch.setattr(time, "monotonic_ns", interrupted_ns)
    assert reader(tmp_path / "clock")() >= before_ns
    assert stops == []


def test_what_is_read_between_the_order_to_stop_and_the_stop_does_not_come_again(tmp_path: Path) -> None:
    clock = TurnClock(tmp_path / "clock")
    read_ns = reader(tmp_path / "clock")
    clock.stop()
    time.sleep(PAUSE_S)
    late_ns = read_ns()
    clock.go()
    assert read_ns() >= late_ns


def test_a_process_takes_over_the_clock_that_its_environment_names(tmp_path: Path) -> None:
    clock = TurnClock(tmp_path / "clock")
    clock.stop()
    time.sleep(PAUSE_S)
    clock.go()
    environment = os.environ | {VARIABLE: str(tmp_path / "clock")}
    done = subprocess.run(
        [sys.executable, "-c", SERVER], env=environment, capture_output=True, text=True, check=True
    )
    system_ns, turn_ns = map(int, done.stdout.split())
    assert turn_ns / 1e9 <= clock.now_s()
    assert system_ns - turn_ns > 0


def test_a_process_without_a_clock_keeps_the_systems() -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", SERVER], env=environment, capture_output=True, text=True, check=True
    )
    system_ns, same_ns = map(int, done.stdout.split())
    assert same_ns >= system_ns
