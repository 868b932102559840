"""A saved benchmark must come back as it was, and an interrupted save must not destroy the one before."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.results import BenchResult
from tests.unit.benchmarks.builders import cell, control, result, run


def test_results_survive_saving(tmp_path: Path) -> None:
    saved = result(cell(run("turbospec", 5, digest="d", control=control(7, steps_by_num_steps={3: 7}))))
    path = tmp_path / "bench.json"
    saved.save(path)
    assert BenchResult.load(path) == saved
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


def test_a_failed_save_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result().save(path)
    (tmp_path / "bench.json.part").mkdir()  # writing the new one fails
    with pytest.raises(OSError, match="part"):
        result(cell(run("nospec", 1))).save(path)
    assert BenchResult.load(path) == result()


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 1, "cells": []}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValidationError):
        BenchResult.load(path)
