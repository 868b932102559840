"""The real SGLang fits the contract; a drifted one is named and nothing is applied."""

import inspect
from importlib.metadata import entry_points

import pytest
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.plugins.hook_registry import HookRegistry
from sglang.srt.speculative.ngram_worker import NGRAMWorker

from sglang_patch import contract, plugin
from sglang_patch.contract import Attribute, Callable_, ContractDrift


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOSPEC_CONTROL_ADDRESS", "unix:/nowhere.sock")
    monkeypatch.setattr(HookRegistry, "_hooks", type(HookRegistry._hooks)(list))


def test_the_installed_sglang_fits() -> None:
    contract.verify()
    assert contract.sglang_version() == contract.TESTED_SGLANG


def test_a_renamed_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Scheduler, "process_batch_result")
    with pytest.raises(ContractDrift, match=r"Scheduler\.process_batch_result is gone"):
        contract.verify()


def test_a_changed_signature_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NGRAMWorker, "_prepare_draft_tokens", lambda self, reqs: None)
    with pytest.raises(ContractDrift, match=r"_draft_tokens takes \(self, reqs\), expected \(self, batch"):
        contract.verify()


def test_a_vanished_attribute_is_named() -> None:
    entry = Attribute("sglang.srt.managers.scheduler.Scheduler", "_sched_was_idle")
    with pytest.raises(ContractDrift, match="Scheduler has no attribute _sched_was_idle"):
        contract.verify([entry])


def test_every_drift_is_told_at_once() -> None:
    with pytest.raises(ContractDrift) as drift:
        contract.verify([Callable_("sglang.srt.nowhere.f", ()), Callable_("sglang.srt.utils.nobody", ())])
    assert len(drift.value.drifts) == 2


def test_drift_applies_nothing(
    active: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(Scheduler, "run_batch")
    plugin.register()
    assert not HookRegistry._hooks
    assert "Scheduler.run_batch is gone" in caplog.text
    assert "unpatched" in caplog.text


def test_strict_drift_exits(active: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOSPEC_STRICT", "1")
    monkeypatch.delattr(Scheduler, "run_batch")
    with pytest.raises(SystemExit, match=r"Scheduler\.run_batch is gone"):
        plugin.register()
    assert not HookRegistry._hooks


def test_a_bad_setting_exits(active: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOSPEC_MODE", "on")
    with pytest.raises(SystemExit, match="TURBOSPEC_MODE='on'"):
        plugin.register()


def test_all_hooks_are_within_the_contract(active: None) -> None:
    plugin.register()
    checked = {entry.path for entry in contract.CONTRACT if isinstance(entry, Callable_)}
    assert set(HookRegistry._hooks) <= checked
    assert HookRegistry._hooks


def test_without_an_address_nothing_is_registered(active: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURBOSPEC_CONTROL_ADDRESS")
    plugin.register()
    assert not HookRegistry._hooks


def test_the_entry_point_is_the_one_sglang_looks_for() -> None:
    (entry,) = [e for e in entry_points(group="sglang.srt.plugins") if e.name == "turbospec"]
    assert inspect.unwrap(entry.load()) is plugin.register
