"""Children are started, watched and stopped whole; real processes, since it is real ones that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from control_service.cli import supervise
from control_service.cli.errors import CliError, ExitCode
from control_service.cli.processes import Child, LogFollower
from control_service.cli.supervise import Member, StopRequest, Supervisor
from tests.support.wait import eventually

SLEEP = "import time; time.sleep(60)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
# A family: the grandchild is in a session of its own, as a daemon would be.
FAMILY = """
import subprocess, sys, time
sleep = "import time; time.sleep(60)"
plain = subprocess.Popen([sys.executable, "-c", sleep])
daemon = subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True)
print(plain.pid, daemon.pid, flush=True)
time.sleep(60)
"""


def python(name: str, script: str, directory: Path) -> Child:
    return Child(name, [sys.executable, "-c", script], os.environ, directory / f"{name}.log")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Child]]:
    """Children to stop after the test, whatever it did."""
    children: list[Child] = []
    yield children
    for child in children:
        child.stop(grace_s=0)


def start(child: Child, started: list[Child]) -> Child:
    started.append(child)
    child.start()
    return child


def test_a_child_that_goes_along_is_stopped_without_force(tmp_path: Path, started: list[Child]) -> None:
    child = start(python("c", "import time; print('ready', flush=True); time.sleep(60)", tmp_path), started)
    assert eventually(lambda: child.last_lines(1) == ["ready"])
    assert child.stop(grace_s=30) is False
    assert not child.running
    assert child.how_it_ended() == "killed by SIGTERM"


def test_a_stubborn_child_is_killed(tmp_path: Path, started: list[Child]) -> None:
    child = start(python("c", STUBBORN, tmp_path), started)
    assert eventually(lambda: child.last_lines(1) == ["ready"])
    assert child.stop(grace_s=0.2) is True
    assert not child.running


def test_a_second_ctrl_c_does_not_wait_for_a_stubborn_child(tmp_path: Path, started: list[Child]) -> None:
    child = start(python("c", STUBBORN, tmp_path), started)
    assert eventually(lambda: child.last_lines(1) == ["ready"])
    asked = []

    def hurry() -> bool:
        asked.append(True)
        return len(asked) > 2

    assert child.stop(grace_s=3600, hurry=hurry) is True
    assert not child.running


def test_nothing_below_a_child_is_left_behind(tmp_path: Path, started: list[Child]) -> None:
    child = start(python("c", FAMILY, tmp_path), started)
    assert eventually(lambda: bool(child.last_lines(1)))
    family = [child.pid, *map(int, child.last_lines(1)[0].split())]
    assert all(map(alive, family))
    child.stop(grace_s=5)
    assert not any(map(alive, family))


def test_what_an_orphaning_child_left_in_its_session_is_stopped_too(
    tmp_path: Path, started: list[Child]
) -> None:
    script = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"
    )
    child = start(python("c", script, tmp_path), started)
    assert eventually(lambda: not child.running)
    orphan = int(child.last_lines(1)[0])
    assert alive(orphan)
    child.stop(grace_s=0)
    assert not alive(orphan)


def test_a_child_does_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from control_service.cli.processes import Child
child = Child("c", [sys.executable, "-c", {SLEEP!r}], os.environ, Path({str(tmp_path / "c.log")!r}))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    assert eventually(lambda: alive(pid) and "sleep" in psutil.Process(pid).cmdline()[-1])
    supervisor.kill()
    supervisor.communicate()
    assert eventually(lambda: not alive(pid))


def test_a_log_is_followed_line_by_line(tmp_path: Path) -> None:
    child = python("c", "", tmp_path)
    lines: list[str] = []
    follower = LogFollower(child, lines.append)
    with child.log.open("a") as log:
        log.write("one\ntw")
        log.flush()
        follower.pump()
        assert lines == ["[c] one"]
        log.write("o\n")
    follower.pump()
    assert lines == ["[c] one", "[c] two"]


def member(child: Child, essential: bool = True, ready: bool = True) -> Member:
    return Member(child, lambda: ready, essential, stop_grace_s=5)


class Scene:
    """A supervisor of some members, what it said, and a stop request that a test can make."""

    def __init__(self, *members: Member) -> None:
        self.said: list[str] = []
        self.stop_request = StopRequest()
        self.supervisor = Supervisor(members, self.stop_request, self.said.append)

    def start(self) -> None:
        self.supervisor.start()
        assert self.supervisor.wait_healthy(30, lambda: None)

    def press_ctrl_c(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    """Makes scenes; their children are stopped after the test, whatever it did."""
    scenes: list[Scene] = []

    def make(*members: Member) -> Scene:
        scenes.append(Scene(*members))
        return scenes[-1]

    yield make
    for made in scenes:
        made.supervisor.stop()


def test_ctrl_c_ends_supervision_and_stop_ends_the_children(
    tmp_path: Path, scene: Callable[..., Scene]
) -> None:
    children = [python("a", SLEEP, tmp_path), python("b", SLEEP, tmp_path)]
    stage = scene(*map(member, children))
    with stage.stop_request:
        stage.start()
        stage.supervisor.supervise(stage.press_ctrl_c)
        stage.supervisor.stop()
    assert stage.stop_request.made
    assert not any(child.running for child in children)
    assert stage.said == []


def test_ctrl_c_while_waiting_ends_the_wait(tmp_path: Path, scene: Callable[..., Scene]) -> None:
    child = python("a", SLEEP, tmp_path)
    stage = scene(member(child, ready=False))
    with stage.stop_request:
        stage.supervisor.start()
        assert stage.supervisor.wait_healthy(3600, stage.press_ctrl_c) is False
        stage.supervisor.stop()
    assert not child.running


def test_the_handlers_that_were_there_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_child_that_dies_while_starting_is_named_with_its_last_words(
    tmp_path: Path, scene: Callable[..., Scene]
) -> None:
    stage = scene(
        member(python("SGLang", "print('no such model'); raise SystemExit(3)", tmp_path), ready=False)
    )
    with stage.stop_request:
        stage.supervisor.start()
        with pytest.raises(CliError, match="SGLang ended while starting") as failure:
            stage.supervisor.wait_healthy(3600, lambda: None)
        stage.supervisor.stop()
    assert "exit code 3" in str(failure.value)
    assert "no such model" in str(failure.value)
    assert failure.value.exit_code == ExitCode.CHILD_FAILED


def test_a_child_that_never_gets_healthy_is_given_up(tmp_path: Path, scene: Callable[..., Scene]) -> None:
    stage = scene(member(python("SGLang", SLEEP, tmp_path), ready=False))
    with stage.stop_request:
        stage.supervisor.start()
        with pytest.raises(CliError, match="SGLang is not healthy"):
            stage.supervisor.wait_healthy(0, lambda: None)
        stage.supervisor.stop()


def test_the_death_of_an_essential_child_ends_supervision(
    tmp_path: Path, scene: Callable[..., Scene]
) -> None:
    essential, other = python("SGLang", SLEEP, tmp_path), python("service", SLEEP, tmp_path)
    stage = scene(member(other, essential=False), member(essential))
    with stage.stop_request:
        stage.start()
        os.kill(essential.pid, signal.SIGKILL)
        with pytest.raises(CliError, match=r"SGLang ended \(killed by SIGKILL\)"):
            stage.supervisor.supervise(lambda: None)
        assert other.running
        stage.supervisor.stop()
    assert not other.running


def test_another_child_is_started_again_and_the_essential_one_goes_on(
    tmp_path: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "BACKOFF_FIRST_S", 0.01)
    essential, other = python("SGLang", SLEEP, tmp_path), python("service", SLEEP, tmp_path)
    stage = scene(member(other, essential=False), member(essential))

    def stop_when_back() -> None:
        if any("is back" in line for line in stage.said):
            stage.press_ctrl_c()

    with stage.stop_request:
        stage.start()
        first_pid, essential_pid = other.pid, essential.pid
        os.kill(first_pid, signal.SIGKILL)
        stage.supervisor.supervise(stop_when_back)
        assert other.running
        assert other.pid != first_pid
        assert essential.running
        assert essential.pid == essential_pid
        stage.supervisor.stop()
    assert [line.split(";")[0] for line in stage.said] == [
        "service ended (killed by SIGKILL)",
        "service is back",
    ]


def test_restarts_back_off(
    tmp_path: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(supervise, "POLL_S", 0.01)
    broken = python("service", "raise SystemExit(1)", tmp_path)
    stage = scene(member(broken, essential=False, ready=False))

    def stop_after_three() -> None:
        if len(stage.said) == 3:
            stage.press_ctrl_c()

    with stage.stop_request:
        stage.supervisor.start()
        stage.supervisor.supervise(stop_after_three)
        stage.supervisor.stop()
    delays = [line.split(" again in ")[1].split(" s;")[0] for line in stage.said]
    assert delays == ["0.01", "0.02", "0.04"]
