"""Windows of a load that goes on from turn to turn: every chunk counts in one of them, or in none."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks.arms import Switch
from benchmarks.load import LoadGenerator
from benchmarks.processes import CpuMeter, Reins
from benchmarks.results import RequestRecord
from benchmarks.servers import Server, ServerSet
from benchmarks.stats import window_tokens
from benchmarks.turn_clock import TurnClock
from benchmarks.turns import LoadedServer, Pace, Share, Work, cut, play_round, shuffled
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


def test_the_order_of_slices_is_fixed_by_the_seed_and_differs_between_sweeps() -> None:
    players = list("abcdef")
    orders = [shuffled(players, f"0/{number}") for number in range(5)]
    assert orders == [shuffled(players, f"0/{number}") for number in range(5)]
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == players for order in orders)


def test_a_turn_is_as_much_work_as_the_median_server_does_in_its_seconds() -> None:
    pace = Pace(seconds=1.5, slice_s=0.1)
    assert pace.work([40.0, 100.0, 60.0], burst_tokens=6) == Work(tokens=90, slice_s=0.1)
    # A machine so slow that a step's tokens would be most of it.
    assert pace.work([9.0], burst_tokens=48) == Work(tokens=384, slice_s=0.1)


class Gate:
    """Stands for reins: a scripted server that sends nothing but first chunks while it is closed."""

    def __init__(self, others: list["Gate"]) -> None:
        self.opened = asyncio.Event()
        self._others = others

    def stop(self) -> None:
        self.opened.clear()

    def go(self) -> None:
        assert not any(other.opened.is_set() for other in self._others), "only one runs at a time"
        self.opened.set()


@dataclass
class Aside:
    """Stands for the reins of what a server has aside."""

    running: bool = True

    def stop(self) -> None:
        self.running = False

    def go(self) -> None:
        self.running = True


@pytest.mark.parametrize("variants", [1, 2])
async def test_turns_of_servers_of_any_speed_are_the_same_stretch_of_the_same_answers(
    tmp_path: Path, variants: int
) -> None:
    """Of one that plays two variants they are twice as long."""
    work = Work(tokens=120, slice_s=0.02)
    watched = cast(
        "ServerSet", SimpleNamespace(require_alive=lambda: None, read_cpu=lambda: CpuMeter.read([]))
    )
    gates: list[Gate] = []
    loads, players, aside = [], [], Aside()
    async with AsyncExitStack() as stack:
        for number, chunks in enumerate(((1,) * 30, (5,) * 6)):
            gate, clock = Gate(gates), TurnClock(tmp_path / str(number))
            clock.stop()
            script = ScriptedServer(chunks=chunks, pause_s=0.002, hold=gate.opened)
            await stack.enter_async_context(serving(script))
            source = prompts(LoadKind.KNOB, "test", 1024)
            load = await stack.enter_async_context(LoadGenerator(script.base_url, source, clock.now_s))
            server = cast("Server", SimpleNamespace(variant=SimpleNamespace(label=str(number)), clock=clock))
            share = Share(variants if number else 1)
            besides = [cast("Reins", aside)] if number else []
            players.append(LoadedServer(server, load, cast("Reins", gate), besides, share))
            gates.append(gate)
            loads.append(load)
        began_s = time.monotonic()
        tokens = []
        for player in players:
            with player.awake():
                tokens.append(await player.warm_up(2, 0.1))
        for player in players:
            with player.awake():
                # A chunk of each client may be under way, and the first one of its next answer.
                await player.catch_up(max(tokens) + 30)
        for number in range(3):
            await play_round(players, watched, number, work, "seed")
            assert aside.running
        passed_s = time.monotonic() - began_s
        begins = []
        for player, load in zip(players, loads, strict=True):
            runs = player.runs(0)
            # Whole chunks: up to one more or less at either end.
            assert [window_tokens(run) for run in runs] == pytest.approx(
                [120 * player.share.variants] * 3, abs=5
            )
            assert [run.window_end_s for run in runs[:-1]] == [run.window_start_s for run in runs[1:]]
            begins.append([tokens_before(load, run.window_start_s) for run in runs])
        assert begins[0][0] == pytest.approx(begins[1][0], abs=5)
        assert variants > 1 or begins[0] == pytest.approx(begins[1], abs=5)
        # Each has a clock of its own, which stood still while the other ran.
        assert sum(load.now_s for load in loads) <= passed_s


def tokens_before(load: LoadGenerator, end_s: float) -> int:
    return sum(sum(part.chunk_tokens) for part in cut(load.records, 0.0, end_s))


async def test_what_serves_ours_besides_stays_stopped_while_a_fixed_arm_has_its_turn(tmp_path: Path) -> None:
    aside, switch = Aside(), Switch(tmp_path / "switch")
    script = ScriptedServer(chunks=(1,) * 1000, pause_s=0.002)
    async with serving(script):
        source = prompts(LoadKind.KNOB, "test", 1024)
        async with LoadGenerator(script.base_url, source) as load:
            server = cast("Server", SimpleNamespace(clock=TurnClock(tmp_path / "clock")))
            engine = cast("Reins", Aside())
            player = LoadedServer(server, load, engine, [cast("Reins", aside)], Share(2, switch))
            load.resize(1)
            player.begin_turn(10_000)
            assert not aside.running
            seen = []
            for fixed in (False, True):
                switch.fixed = fixed
                slice_ = asyncio.create_task(player.play(0.05))
                await asyncio.sleep(0.02)
                seen.append(aside.running)
                assert await slice_ is None
                assert not aside.running
            assert seen == [True, False]
            player.wake_aside()
            assert aside.running
