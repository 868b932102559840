"""The engine's side: which tokens a step commits, who runs, and the flags on records."""

from __future__ import annotations

import numpy as np
import pytest

from control_service.replay.engine import Engine, Supply
from control_service.replay.sources import AcceptanceSpan, MutedSource, SyntheticSource, TraceSource
from control_service.replay.streams import child, seeds_of
from tests.unit.replay.builders import trace_source

SEED = np.random.SeedSequence(0)


def _engine(source: TraceSource) -> tuple[Engine, Supply]:
    return Engine(source, SEED), Supply(source.groups[0], SEED)


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (0, [1, 1, 1, 1, 1]),
        (1, [2, 2, 1]),
        (2, [3, 1, 1]),
        (7, [4, 1]),
    ],
)
def test_a_step_commits_what_the_trace_allows(num_steps: int, expected: list[int]) -> None:
    """min(k + 1, entry, tokens left), and the position moves on by that."""
    # The last position would accept more than is left of the output.
    source = trace_source((4, 3, 2, 1, 5))
    engine, supply = _engine(source)
    engine.admit(1, supply, drain=False)
    committed = []
    while engine.batch_size:
        committed.append(int(engine.commit(num_steps, engine.entries(0.0)).tokens[0]))
    assert committed == expected


def test_the_first_decode_step_is_flagged_once() -> None:
    """Models leave first steps out: a wrong flag poisons them or starves them."""
    source = trace_source((1, 1, 1), (1,))
    engine, supply = _engine(source)
    flags = []
    for _ in range(8):
        engine.admit(2, supply, drain=False)
        sizes = engine.tokens_left.tolist()
        committed = engine.commit(0, engine.entries(0.0))
        flags.append(sorted(zip(sizes, committed.first_step, strict=True)))
    for step in flags:
        for left, first in step:
            # A request of three tokens is fresh while three are left; that of one is always fresh.
            assert first == (left == 3) or (left == 1)


def test_context_is_prompts_plus_what_was_generated() -> None:
    """Verification time depends on it."""
    engine, supply = _engine(trace_source((2, 2, 2, 2), (2, 2, 2, 2), prompt_tokens=50))
    assert engine.admit(2, supply, drain=False) == 100
    assert engine.context_tokens == 100
    engine.commit(1, engine.entries(0.0))
    assert engine.context_tokens == 104
    assert engine.admit(2, supply, drain=False) == 0


def test_concurrency_falls_at_once_or_by_draining() -> None:
    """Draining keeps requests that are not replaced; otherwise the newest leave."""
    for drain, expected in ((False, 1), (True, 3)):
        engine, supply = _engine(trace_source((1, 1, 1, 1)))
        engine.admit(3, supply, drain=drain)
        engine.commit(0, engine.entries(0.0))
        engine.admit(1, supply, drain=drain)
        assert engine.batch_size == expected


def test_a_supply_serves_every_request_before_any_twice() -> None:
    """A shuffled trace, not draws with replacement: else cells differ by which requests they drew."""
    supply = Supply(np.arange(10), SEED)
    first, second = supply.take(10), supply.take(10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_streams_of_a_seed_repeat_and_differ() -> None:
    """The same numbers for every policy; not the same for two purposes or phases."""

    def draw(seed: np.random.SeedSequence) -> float:
        return float(np.random.default_rng(seed).random())

    assert draw(seeds_of(1).noise) == draw(seeds_of(1).noise)
    assert len({draw(seed) for seed in (*seeds_of(1), *seeds_of(2))}) == 2 * len(seeds_of(1))
    noise = seeds_of(1).noise
    assert draw(child(noise, 0)) == draw(child(noise, 0)) != draw(child(noise, 1))


def test_mean_tokens_of_a_trace_is_that_of_a_walk() -> None:
    """The oracle's truth, end of output included."""
    source = trace_source((4, 3, 2, 1, 5), (1, 1))
    assert source.mean_tokens(0, 0, 0.0) == 1.0
    # 2 + 2 + 1, and 1 + 1.
    assert source.mean_tokens(0, 1, 0.0) == pytest.approx(7 / 5)
    # 4 + 1, and 1 + 1.
    assert source.mean_tokens(0, 7, 0.0) == pytest.approx(7 / 4)


def test_synthetic_acceptance_has_the_rate_it_was_given() -> None:
    """Entries follow the schedule, and mean_tokens says what they average."""
    source = SyntheticSource((AcceptanceSpan((0.0,), 30.0), AcceptanceSpan((0.6,), 30.0)))
    random = np.random.default_rng(0)
    requests = np.zeros(20_000, dtype=np.int64)
    assert (source.entries(requests, requests, 29.9, random) == 1).all()
    entries = source.entries(requests, requests, 30.0, random)
    assert float((entries > 1).mean()) == pytest.approx(0.6, abs=0.02)
    assert float(np.minimum(entries, 4).mean()) == pytest.approx(source.mean_tokens(0, 3, 40.0), rel=0.02)
    assert source.mean_tokens(0, 3, 1.0) == 1.0
    assert source.changes_s == (30.0,)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1), (1.0, 65)])
def test_synthetic_extremes(rate: float, expected: int) -> None:
    """No draft and every draft: no infinities."""
    source = SyntheticSource((AcceptanceSpan((rate,), 1.0),))
    requests = np.zeros(4, dtype=np.int64)
    assert set(source.entries(requests, requests, 0.0, np.random.default_rng(0)).tolist()) == {expected}


def test_a_muted_source_accepts_nothing_until_its_time() -> None:
    """Then it is the source again."""
    source = MutedSource(trace_source((4, 3, 2, 1)), until_s=5.0)
    at_start = np.zeros(1, dtype=np.int64)
    random = np.random.default_rng(0)
    assert source.entries(at_start, at_start, 4.9, random).tolist() == [1]
    assert source.entries(at_start, at_start, 5.0, random).tolist() == [4]
    assert source.mean_tokens(0, 3, 4.9) == 1.0 < source.mean_tokens(0, 3, 5.0)
