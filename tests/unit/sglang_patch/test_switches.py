"""Kill switch and mode work on the engine alone, at run time."""

from pathlib import Path
from typing import Any

import pytest

from sglang_patch.modes import ENFORCE, OFF, SHADOW, EngineMode, parse_mode
from sglang_patch.switches import MODE_FILE_MAX_BYTES, Switches
from tests.support.wait import eventually
from turbospec.v1.control_pb2 import MODE_CANARY


def switches(**changes: Any) -> Switches:
    return Switches(**{"kill": False, "kill_file": "", "mode": ENFORCE, "mode_file": "", **changes})


def test_environment_kills_for_good(tmp_path: Path) -> None:
    made = switches(kill=True, kill_file=str(tmp_path / "absent"))
    made.start()
    assert made.killed


def test_a_file_kills_and_releases(tmp_path: Path) -> None:
    file = tmp_path / "kill"
    made = switches(kill_file=str(file))
    made.start()
    try:
        assert not made.killed
        file.touch()
        assert eventually(lambda: made.killed)
        file.unlink()
        assert eventually(lambda: not made.killed)
    finally:
        made.close()


def test_files_that_are_there_already_hold_for_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    (tmp_path / "mode").write_text("shadow")
    made = switches(kill_file=str(tmp_path / "kill"), mode_file=str(tmp_path / "mode"))
    assert made.killed
    assert made.mode == SHADOW


def test_the_mode_file_overrides_the_environment_while_it_exists(tmp_path: Path) -> None:
    file = tmp_path / "mode"
    made = switches(mode=SHADOW, mode_file=str(file))
    seen: list[EngineMode] = []
    made.changed = lambda: seen.append(made.mode)
    made.start()
    try:
        for text, mode in (
            ("off\n", OFF),
            (" canary:10 ", EngineMode(MODE_CANARY, 10)),
            ("enforce", ENFORCE),
        ):
            file.write_text(text)
            assert eventually(lambda wanted=mode: made.mode == wanted)  # type: ignore[misc]
        file.unlink()
        assert eventually(lambda: made.mode == SHADOW)
        assert seen[0] == OFF
        assert seen[-1] == SHADOW
    finally:
        made.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Enforce",
        b"canary:0",
        b"canary:100",
        b"canary",
        b"\xff\xfe",
        b"off".ljust(MODE_FILE_MAX_BYTES + 1),
    ],
)
def test_what_cannot_be_understood_keeps_the_last_good_mode_and_is_told_once(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mode"
    file.write_text("shadow")
    made = switches(mode_file=str(file))
    file.write_bytes(content)
    for _ in range(3):
        made._look()
    assert made.mode == SHADOW
    assert sum("not usable" in message for message in caplog.messages) == 1


def test_a_file_that_cannot_be_read_keeps_the_last_good_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mode"
    file.write_text("off")
    made = switches(mode_file=str(file))
    file.unlink()
    file.mkdir()
    for _ in range(3):
        made._look()
    assert made.mode == OFF
    assert sum("mode stays off" in message for message in caplog.messages) == 1


def test_modes_read_as_they_are_written() -> None:
    for text in ("enforce", "shadow", "off", "canary:1", "canary:99"):
        assert str(parse_mode(text)) == text
    for text in ("", "ENFORCE", "canary:", "canary:0", "canary:100", "canary:1.5", "canary:-1", "shadow:5"):
        with pytest.raises(ValueError):  # noqa: PT011  (its text is the caller's to say)
            parse_mode(text)
