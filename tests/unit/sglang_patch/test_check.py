"""What `turbospec doctor` is told of the engine side: the settings' errors, the plugin, the contract."""

from __future__ import annotations

import sys

import pytest
from sglang.srt.managers.scheduler import Scheduler

from sglang_patch import check
from sglang_patch.contract import TESTED_SGLANG


def test_every_setting_that_would_stop_the_engine_is_told_at_once() -> None:
    found = check.setting_errors(
        {
            "TURBOSPEC_CONTROL_ADDRESS": "somewhere",
            "TURBOSPEC_MODE": "on",
            "TURBOSPEC_RING_SIZE": "3",
            "TURBOSPEC_KILLFILE": "/k",
            "TURBOSPEC_SERVICE_MODE": "off",
            "PATH": "/bin",
        }
    )
    assert [error.partition("=")[0] for error in sorted(found)] == [
        "TURBOSPEC_CONTROL_ADDRESS",
        "TURBOSPEC_KILLFILE",
        "TURBOSPEC_MODE",
        "TURBOSPEC_RING_SIZE",
    ]


def test_settings_are_checked_where_the_plugin_is_inactive_too() -> None:
    assert check.setting_errors({}) == []
    (error,) = check.setting_errors({"TURBOSPEC_STRICT": "yes"})
    assert error == "TURBOSPEC_STRICT='yes' is not usable: allowed is 0 or 1"


def test_sglang_loads_the_plugin_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.plugin_problem() is None
    monkeypatch.setenv("SGLANG_PLUGINS", "another")
    assert check.plugin_problem() == "SGLANG_PLUGINS='another' leaves it out"


def test_drift_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.drifts() == []
    monkeypatch.delattr(Scheduler, "on_idle")
    (drift,) = check.drifts()
    assert "Scheduler.on_idle is gone" in drift


def test_a_broken_installation_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = check.examine("cuda", {})
    assert found["sglang"] == TESTED_SGLANG
    assert found["import_error"].startswith("ModuleNotFoundError")
