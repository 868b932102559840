"""Made models: complete or absent, made once, and never over something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sglang_patch.models.store import ModelError, build_once, models_directory

RECIPE = {"name": "m", "recipe_version": 1}


def write_weights(directory: Path) -> None:
    (directory / "weights").write_text("w")


def refuse_to_build(directory: Path) -> None:
    raise AssertionError("built again")


def test_a_model_is_built_once(tmp_path: Path) -> None:
    out = tmp_path / "below" / "m"
    assert build_once(out, RECIPE, write_weights) is True
    assert (out / "weights").read_text() == "w"
    assert build_once(out, RECIPE, refuse_to_build) is False


def test_a_new_recipe_replaces_the_old_model(tmp_path: Path) -> None:
    out = tmp_path / "m"
    build_once(out, RECIPE, write_weights)
    assert build_once(out, {**RECIPE, "recipe_version": 2}, lambda new: (new / "other").touch()) is True
    assert {path.name for path in out.iterdir()} == {"other", "turbospec-model.json"}


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "m"

    def fail(directory: Path) -> None:
        write_weights(directory)
        raise ModelError("broken")

    with pytest.raises(ModelError, match="broken"):
        build_once(out, RECIPE, fail)
    assert [path.name for path in tmp_path.iterdir()] == [".m.lock"]
    assert build_once(out, RECIPE, write_weights) is True


def test_what_a_killed_build_left_does_not_get_into_the_next(tmp_path: Path) -> None:
    leftover = tmp_path / ".m.partial" / "new"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    build_once(tmp_path / "m", RECIPE, write_weights)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"weights", "turbospec-model.json"}
    assert not (tmp_path / ".m.partial").exists()


def test_a_directory_of_somebody_elses_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "m"
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(ModelError, match="was not made by TurboSpec"):
        build_once(out, RECIPE, refuse_to_build)
    assert (out / "thesis.tex").exists()


def test_concurrent_callers_build_once(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from sglang_patch.models.store import build_once
def build(directory):
    with Path({str(tmp_path / "builds")!r}).open("a") as builds:
        builds.write("x")
    time.sleep(0.3)
build_once(Path({str(tmp_path / "m")!r}), {RECIPE!r}, build)
"""
    callers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [caller.wait() for caller in callers] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "x"


def test_the_cache_is_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOSPEC_CACHE_DIR", str(tmp_path))
    assert models_directory() == tmp_path / "models"
    monkeypatch.delenv("TURBOSPEC_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert models_directory() == Path("/home/somebody/.cache/turbospec/models")
