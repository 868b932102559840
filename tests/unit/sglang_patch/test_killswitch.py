"""The kill switch works on the engine alone."""

from pathlib import Path

from sglang_patch.killswitch import KillSwitch
from tests.support.wait import eventually


def test_environment_holds_for_good() -> None:
    switch = KillSwitch(always=True, path="")
    switch.start()
    assert switch.engaged


def test_file_engages_and_releases(tmp_path: Path) -> None:
    file = tmp_path / "kill"
    switch = KillSwitch(always=False, path=str(file))
    switch.start()
    try:
        assert not switch.engaged
        file.touch()
        assert eventually(lambda: switch.engaged)
        file.unlink()
        assert eventually(lambda: not switch.engaged)
    finally:
        switch.close()


def test_a_file_that_is_there_already_holds_for_the_first_step(tmp_path: Path) -> None:
    file = tmp_path / "kill"
    file.touch()
    assert KillSwitch(always=False, path=str(file)).engaged
