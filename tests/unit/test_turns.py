"""A test that needs the machine for itself has it, and does not wait for ever."""

import multiprocessing
import time
from pathlib import Path

from tests.support.turns import Turns
from tests.support.wait import eventually

PAUSE_S = 0.05


def _visit(directory: Path, name: str, *, alone: bool, times: int) -> None:
    turns = Turns(directory)
    for _ in range(times):
        with turns.turn(alone=alone):
            log(directory, f"{name} in")
            time.sleep(PAUSE_S)
            log(directory, f"{name} out")


def log(directory: Path, line: str) -> None:
    with (directory / "log").open("a") as file:
        file.write(line + "\n")


def lines(directory: Path) -> list[str]:
    path = directory / "log"
    return path.read_text().splitlines() if path.exists() else []


def test_who_is_alone_meets_nobody_though_others_come_back_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(
            target=_visit, args=(tmp_path, name), kwargs={"alone": False, "times": 30}, daemon=True
        )
        for name in ("a", "b")
    ]
    for process in others:
        process.start()
    assert eventually(lambda: {"a in", "b in"} <= set(lines(tmp_path)))
    _visit(tmp_path, "alone", alone=True, times=2)
    seen = lines(tmp_path)
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0]
    whole = lines(tmp_path)
    # Nobody is inside as it comes in, and it leaves before anybody comes in.
    for at, line in enumerate(whole):
        if line == "alone in":
            before = [one.split() for one in whole[:at]]
            assert sum({"in": 1, "out": -1}[word] for _, word in before) == 0
            assert whole[at + 1] == "alone out"
    # It did not have to wait until they were done.
    assert len(seen) < len(whole)
    assert whole.count("a in") == whole.count("b in") == 30


def test_others_meet_each_other(tmp_path: Path) -> None:
    first, second = Turns(tmp_path), Turns(tmp_path)
    with first.turn(alone=False), second.turn(alone=False):
        pass
    first.close()
    second.close()
