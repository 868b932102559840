"""Windows of a load that goes on from turn to turn: every chunk counts in one of them, or in none."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks.load import LoadGenerator
from benchmarks.processes import CpuMeter
from benchmarks.results import RequestRecord
from benchmarks.servers import Server, ServerSet
from benchmarks.stats import window_tokens
from benchmarks.turns import LoadedServer, Pace, Work, cut, shuffled
from benchmarks.workload import LoadKind, prompts
from tests.unit.benchmarks.sse_server import ScriptedServer, serving


def request(chunk_s: list[float], *, complete: bool = True) -> RequestRecord:
    return RequestRecord(
        prompt_index=0,
        max_tokens=8,
        client=0,
        sent_s=chunk_s[0] - 0.5,
        chunk_s=chunk_s,
        chunk_tokens=list(range(1, len(chunk_s) + 1)),
        complete=complete,
        output_digest="d" if complete else None,
        verify_steps=3 if complete else None,
        accepted_drafts=2 if complete else None,
    )


def test_a_request_over_three_windows_is_counted_once_and_complete_in_the_last() -> None:
    whole = request([1.0, 2.0, 3.0, 4.0, 5.0])
    parts = [cut([whole], start_s, start_s + 2.0)[0] for start_s in (0.0, 2.0, 4.0)]
    assert [part.chunk_tokens for part in parts] == [[1], [2, 3], [4, 5]]
    assert [part.starts_before for part in parts] == [False, True, True]
    assert [part.complete for part in parts] == [False, False, True]
    assert [part.output_digest for part in parts] == [None, None, "d"]
    assert [part.verify_steps for part in parts] == [None, None, 3]


def test_what_arrives_between_the_windows_counts_nowhere() -> None:
    (part,) = cut([request([1.0, 2.0, 3.0])], 1.5, 2.5)
    assert (part.chunk_s, part.chunk_tokens, part.complete) == ([2.0], [2], False)
    assert cut([request([1.0, 2.0])], 5.0, 6.0) == []


def test_an_answer_that_goes_on_is_not_complete() -> None:
    (part,) = cut([request([1.0, 2.0], complete=False)], 0.0, 3.0)
    assert not part.complete


def test_the_order_of_turns_is_fixed_by_the_seed_and_differs_between_rounds() -> None:
    players = list("abcdef")
    orders = [[name for _, name in shuffled(players, f"0/{number}")] for number in range(5)]
    assert orders == [[name for _, name in shuffled(players, f"0/{number}")] for number in range(5)]
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == players for order in orders)


def test_a_turn_is_as_much_work_as_the_median_server_does_in_its_seconds() -> None:
    pace = Pace(seconds=1.5, settle_s=0.3)
    assert pace.work([40.0, 100.0, 60.0], burst_tokens=6) == Work(tokens=90, settle_tokens=18)
    # A machine so slow that the tokens lying ready from before a turn would be most of it.
    assert pace.work([9.0], burst_tokens=48) == Work(tokens=384, settle_tokens=96)


async def test_turns_of_servers_of_any_speed_are_the_same_stretch_of_the_same_answers() -> None:
    work = Work(tokens=120, settle_tokens=60)
    watched = cast(
        "ServerSet", SimpleNamespace(require_alive=lambda: None, read_cpu=lambda: CpuMeter.read([]))
    )
    server = cast("Server", SimpleNamespace(variant=SimpleNamespace(label="fixed:1")))
    async with AsyncExitStack() as stack:
        gates, loads, players = [], [], []
        for chunks in ((1,) * 30, (5,) * 6):
            gates.append(asyncio.Event())
            script = ScriptedServer(chunks=chunks, pause_s=0.002, hold=gates[-1])
            await stack.enter_async_context(serving(script))
            load = LoadGenerator(script.base_url, prompts(LoadKind.KNOB, "test", 1024))
            loads.append(await stack.enter_async_context(load))
            players.append(LoadedServer(server, load))
        tokens = []
        for player, gate in zip(players, gates, strict=True):
            gate.set()
            tokens.append(await player.warm_up(2, 0.1))
            gate.clear()
        for player, gate in zip(players, gates, strict=True):
            gate.set()
            await player.catch_up(max(tokens))
            gate.clear()
        for number in range(3):
            for player, gate in zip(players, gates, strict=True):
                gate.set()
                await player.take_turn(watched, number, 0, work)
                gate.clear()
        begins = []
        for player, load in zip(players, loads, strict=True):
            runs = player.runs(0)
            # Whole chunks: up to one more or less at either end.
            assert [window_tokens(run) for run in runs] == pytest.approx([120] * 3, abs=5)
            begins.append([tokens_before(load, run.window_start_s) for run in runs])
        assert begins[0] == pytest.approx(begins[1], abs=5)


def tokens_before(load: LoadGenerator, end_s: float) -> int:
    return sum(sum(part.chunk_tokens) for part in cut(load.records, 0.0, end_s))
