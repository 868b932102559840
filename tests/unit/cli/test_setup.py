"""The set-up: it does what has changed, and nothing twice."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/setup.py, working on a copy of the files that it depends on."""
    spec = importlib.util.spec_from_file_location("turbospec_setup", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.fixture
def installed(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps that reached pip, in order."""
    names: list[str] = []
    monkeypatch.setattr(setup, "_pip_install", lambda python, step, log: names.append(step.name))
    return names


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """Looks like a virtual environment."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    return tmp_path / "venv"


ALL = ["torch", "engine-cpu", "project[engine,service,cli,models,dev]", "no-deps"]


def test_a_second_run_installs_nothing(setup: ModuleType, installed: list[str], venv: Path) -> None:
    setup.install(venv, setup.PROFILES["serve"].steps)
    assert installed == ALL
    setup.install(venv, setup.PROFILES["serve"].steps)
    assert installed == ALL


def test_only_what_has_changed_is_done_again(setup: ModuleType, installed: list[str], venv: Path) -> None:
    setup.install(venv, setup.PROFILES["serve"].steps)
    installed.clear()
    with (setup.ROOT / "requirements" / "no-deps.txt").open("a") as file:
        file.write("# changed\n")
    setup.install(venv, setup.PROFILES["serve"].steps)
    assert installed == ["no-deps"]
    installed.clear()
    with (setup.ROOT / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    setup.install(venv, setup.PROFILES["serve"].steps)
    assert installed == ["project[engine,service,cli,models,dev]"]


def test_an_interrupted_setup_goes_on_where_it_stopped(
    setup: ModuleType, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def fail_at_project(python: Path, step: object, log: Path) -> None:
        name = step.name  # type: ignore[attr-defined]
        if name.startswith("project") and "project" not in broken:
            broken.append("project")
            raise SystemExit("the network is gone")
        done.append(name)

    broken: list[str] = []
    monkeypatch.setattr(setup, "_pip_install", fail_at_project)
    with pytest.raises(SystemExit):
        setup.install(venv, setup.PROFILES["serve"].steps)
    assert done == ALL[:2]
    setup.install(venv, setup.PROFILES["serve"].steps)
    assert done == ALL


def test_a_damaged_stamp_counts_as_none(setup: ModuleType, installed: list[str], venv: Path) -> None:
    (venv / "turbospec-setup.json").write_text('{"torch":')
    setup.install(venv, setup.PROFILES["serve"].steps)
    assert installed == ALL
    assert set(json.loads((venv / "turbospec-setup.json").read_text())) == set(ALL)


def test_an_old_python_is_refused_with_the_way_out(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "MINIMUM_PYTHON", (99, 0))
    with pytest.raises(SystemExit, match="PYTHON=python3"):
        setup.check_machine(setup.TEST_TOOLS)


def test_a_missing_compiler_is_named_where_apt_may_not_be_used(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.shutil, "which", lambda name: None if name == "g++" else f"/bin/{name}")
    monkeypatch.setattr(setup, "_root_prefix", lambda: None)
    with pytest.raises(SystemExit, match=r"please install: g\+\+ \(g\+\+ compiles SGLang's NGRAM drafter"):
        setup.check_machine(setup.TEST_TOOLS)


def test_the_service_alone_needs_no_compiler(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    monkeypatch.setattr(setup, "_root_prefix", lambda: None)
    setup.check_machine(setup.PROFILES["service"].tools)


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda file: file.name)
def test_every_requirement_is_pinned_exactly(file: Path) -> None:
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    assert [
        line for line in lines if line and not re.fullmatch(r"[a-z0-9.-]+==(\d+!)?[0-9][\w.]*", line)
    ] == []


def test_requirements_and_constraints_agree() -> None:
    """A pin raised in one place only would make the set-up fail on every machine."""

    def pins(name: str) -> set[str]:
        lines = (ROOT / "requirements" / name).read_text().splitlines()
        return {line.strip() for line in lines if line.strip() and not line.startswith("#")}

    assert pins("engine-cpu.txt") | pins("torch.txt") <= pins("constraints.txt")
