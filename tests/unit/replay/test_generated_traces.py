"""The shipped traces are what their generator makes, and have the shape that replay relies on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.traces import generate
from control_service.replay.files import load_step_times, load_trace
from control_service.replay.sources import TraceSource

DIRECTORY = Path(generate.__file__).parent
# Tokens a request and step at k = 1, 2, 3, 5, 7, of the measured traces that the numbers were fitted to.
MEASURED = {
    ("chat", "eagle3"): (1.691, 2.120, 2.374, 2.642, 2.739),
    ("chat", "ngram"): (1.109, 1.147, 1.164, 1.177, 1.182),
    ("summary", "eagle3"): (1.670, 2.076, 2.317, 2.564, 2.677),
    ("summary", "ngram"): (1.205, 1.289, 1.333, 1.377, 1.397),
}


@pytest.mark.parametrize("style", generate.STYLES, ids=lambda style: style.name)
def test_the_shipped_file_is_what_the_generator_makes(style: generate.Style) -> None:
    """Anyone can reproduce the numbers of the README from the source alone."""
    shipped = (DIRECTORY / f"{style.name}.jsonl").read_text(encoding="utf-8")
    assert shipped == generate.text_of(style)


@pytest.mark.parametrize(("name", "drafter"), MEASURED)
def test_the_shipped_traces_commit_what_measured_ones_did(name: str, drafter: str) -> None:
    """Within 2 % at every length: a policy tuned on them is tuned on something real."""
    trace = load_trace(DIRECTORY / f"{name}.jsonl")
    source = TraceSource((trace.by_drafter[drafter],))
    tokens = [source.mean_tokens(0, length, 0.0) for length in (1, 2, 3, 5, 7)]
    assert tokens == pytest.approx(MEASURED[name, drafter], rel=0.02)


def test_repetitions_count_down() -> None:
    """An n-gram run of n is followed by n - 1: a step that takes part of it leaves the rest."""
    for request in load_trace(DIRECTORY / "summary.jsonl").by_drafter["ngram"]:
        for entry, after in pairwise(request.entries):
            assert entry == 1 or after == entry - 1 or entry == after == generate.NGRAM_MAX


@pytest.mark.parametrize("name", ["h100-llama-3.1-8b", "linear-in-tokens"])
def test_the_shipped_step_time_models_can_be_read(name: str) -> None:
    """For both drafters of the traces."""
    assert set(load_step_times(DIRECTORY / f"{name}.json").draft) == {"eagle3", "ngram"}
