"""What the hooks call: numbering, fallback by reason, the kill switch, and never an exception outward."""

from pathlib import Path

import pytest

from sglang_patch.config import EngineConfig
from sglang_patch.control import StepControl
from sglang_patch.decision import DISCONNECTED, ERROR, FALLBACK, KILL_SWITCH, LAUNCH_LENGTH
from sglang_patch.hooks.attach import candidates_for, guarded


def config(**env: str) -> EngineConfig:
    made = EngineConfig.from_env({"TURBOSPEC_CONTROL_ADDRESS": "unix:/nowhere.sock", **env})
    assert made is not None
    return made


def test_without_a_service_every_step_runs_at_length_0_and_says_why() -> None:
    control = StepControl(config(), (0, 1, 3), launch_num_steps=3)
    for step in (1, 2):
        record = control.begin(4, 100, 0, 1_000, idled=False)
        assert control.num_steps == 0
        assert (record.step_index, record.decision.source) == (step, FALLBACK)
        assert record.decision.reason == DISCONNECTED


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_an_engine_that_is_not_to_obey_holds_its_launch_length(mode: str) -> None:
    control = StepControl(config(TURBOSPEC_MODE=mode), (0, 1, 3), launch_num_steps=3)
    record = control.begin(4, 100, 0, 1_000, idled=False)
    assert (control.num_steps, record.decision.source) == (3, LAUNCH_LENGTH)


def test_kill_switch_wins(tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    control = StepControl(
        config(TURBOSPEC_KILL_FILE=str(tmp_path / "kill"), TURBOSPEC_MODE="off"),
        (0, 1, 3),
        launch_num_steps=3,
    )
    record = control.begin(4, 100, 0, 1_000, idled=False)
    assert (control.num_steps, record.decision.source) == (0, KILL_SWITCH)


def test_an_error_of_ours_ends_control_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    control = StepControl(config(TURBOSPEC_MODE="off"), (0, 1, 3), launch_num_steps=3)

    @guarded
    def broken(_control: StepControl) -> None:
        raise RuntimeError("ours")

    assert broken(control) is None
    assert broken(control) is None
    assert sum("control is off" in message for message in caplog.messages) == 1, "told once"
    record = control.begin(4, 100, 0, 1_000, idled=False)
    assert (control.num_steps, record.decision.reason) == (0, ERROR)


def test_default_candidates_end_with_the_launch_length() -> None:
    assert candidates_for(config(), 4) == (0, 1, 2, 3, 4)
    assert candidates_for(config(), 7) == (0, 1, 2, 3, 5, 7)
    assert candidates_for(config(TURBOSPEC_CANDIDATES="0,2"), 7) == (0, 2)


def test_candidates_beyond_the_buffers_stop_the_engine() -> None:
    with pytest.raises(SystemExit, match=r"TURBOSPEC_CANDIDATES=0,9.*at most.*7"):
        candidates_for(config(TURBOSPEC_CANDIDATES="0,9"), 7)
