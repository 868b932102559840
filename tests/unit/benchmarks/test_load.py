"""The clients against a real streaming server: what they count, how many they are, and how they fail."""

import asyncio
import itertools
from collections.abc import Callable, Iterator

import pytest

from benchmarks.load import LoadError, LoadGenerator, Measured, measure_seconds
from benchmarks.workload import LoadKind, Prompt, prompts
from tests.unit.benchmarks.sse_server import ScriptedServer, serving

WAIT_S = 20.0


def drawn(kind: LoadKind = LoadKind.KNOB, count: int | None = None) -> Iterator[Prompt]:
    return itertools.islice(prompts(kind, "test", 1024), count)


async def measure_requests(base_url: str, prompts: Iterator[Prompt], clients: int) -> Measured:
    """Load until finite prompts have been answered."""
    async with LoadGenerator(base_url, prompts) as load:
        load.resize(clients)
        await asyncio.gather(*load._clients.values())
        return Measured(load.records, 0.0, load.now_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", [LoadKind.KNOB, LoadKind.CHAT])
async def test_tokens_are_the_servers_count_not_the_chunks(kind: LoadKind) -> None:
    async with serving(ScriptedServer(chunks=(1, 3, 2))) as server:
        measured = await measure_requests(server.base_url, drawn(kind, 1), clients=1)
    (record,) = measured.records
    assert record.chunk_tokens == [1, 3, 2]
    assert record.chunk_s == sorted(record.chunk_s)
    assert record.sent_s <= record.chunk_s[0]
    assert record.complete
    assert (record.verify_steps, record.accepted_drafts) == (4, 6)


@pytest.mark.parametrize("kind", [LoadKind.KNOB, LoadKind.CHAT])
async def test_the_digest_tells_outputs_apart_but_not_how_they_were_cut(kind: LoadKind) -> None:
    digests = {}
    for chunks in ((1, 1, 1), (3,), (4,)):
        async with serving(ScriptedServer(chunks=chunks)) as server:
            measured = await measure_requests(server.base_url, drawn(kind, 1), clients=1)
        digests[chunks] = measured.records[0].output_digest
    assert digests[(3,)] != digests[(4,)]
    if kind is LoadKind.CHAT:  # the scripted token ids restart with every chunk, the text does not
        assert digests[(1, 1, 1)] == digests[(3,)]


async def test_the_loop_is_closed_each_client_has_one_request_under_way() -> None:
    async with serving(ScriptedServer()) as server:
        measured = await measure_requests(server.base_url, drawn(count=40), clients=4)
    assert server.most_running <= 4
    assert {record.client for record in measured.records} == {0, 1, 2, 3}
    assert sorted(record.prompt_index for record in measured.records) == list(range(40))
    assert measured.window_end_s >= max(record.chunk_s[-1] for record in measured.records)


async def test_first_answers_are_cut_to_different_lengths() -> None:
    async with serving(ScriptedServer()) as server:
        measured = await measure_requests(server.base_url, drawn(count=8), clients=4)
    asked = [record.max_tokens for record in measured.records]
    assert asked == [32, 64, 96, 128, 128, 128, 128, 128]


async def test_a_run_of_seconds_stops_in_mid_answer_and_keeps_what_came() -> None:
    async with serving(ScriptedServer(hold=asyncio.Event())) as server:
        measured = await measure_seconds(server.base_url, drawn(), clients=2, ramp_s=0.1, seconds=0.4)
    assert [record.chunk_tokens for record in measured.records] == [[1], [1]]
    assert not any(record.complete for record in measured.records)
    assert (measured.window_start_s, measured.window_end_s) == (0.1, pytest.approx(0.5))


async def test_clients_come_and_go_while_the_load_runs() -> None:
    async with serving(ScriptedServer()) as server, LoadGenerator(server.base_url, drawn()) as load:
        load.resize(1)
        await load.run_for(0.05)
        assert load.clients == 1
        load.resize(6)
        assert load.clients == 6
        await load.run_for(0.05)
        load.resize(2)
        await until(lambda: load.clients == 2)
        before = len(load.records)
        await load.run_for(0.1)
        assert {record.client for record in load.records[before:]} <= {0, 1}
        assert load.tokens_total == sum(sum(record.chunk_tokens) for record in load.records)


async def test_the_load_runs_up_to_the_chunk_that_makes_so_many_tokens() -> None:
    server = ScriptedServer(hold=asyncio.Event())
    async with serving(server), LoadGenerator(server.base_url, drawn()) as load:
        load.resize(2)
        load.aim(2)
        first_s = await load.run_to_goal()
        assert (load.tokens_total, first_s) == (2, load.records[1].chunk_s[0])
        assert server.hold is not None
        # Two answers of six tokens; the goal lies within a chunk of three.
        load.aim(8)
        assert await load.run_to_goal(0.05) is None
        server.hold.set()
        second_s = await load.run_to_goal()
        assert load.tokens_total >= 8
        arrived = sorted(
            (at_s, tokens)
            for record in load.records
            for at_s, tokens in zip(record.chunk_s, record.chunk_tokens, strict=True)
        )
        totals = itertools.accumulate(tokens for _, tokens in arrived)
        assert second_s == next(at_s for (at_s, _), total in zip(arrived, totals, strict=True) if total >= 8)
        # Long past: the next chunk counts.
        before_s = load.now_s
        load.aim(1)
        last_s = await load.run_to_goal()
        assert last_s is not None
        assert last_s >= before_s - 1e-5


async def test_a_goal_that_was_reached_while_nobody_waited_counts_from_then() -> None:
    server = ScriptedServer(hold=asyncio.Event())
    async with serving(server), LoadGenerator(server.base_url, drawn()) as load:
        load.resize(1)
        load.aim(4)
        assert await load.run_to_goal(0.05) is None
        assert server.hold is not None
        server.hold.set()
        await until(lambda: load.tokens_total > 6)
        assert await load.run_to_goal(0.05) == load.records[0].chunk_s[1]


async def test_times_are_by_the_clock_that_the_load_was_given() -> None:
    at_s = 100.0
    async with (
        serving(ScriptedServer()) as server,
        LoadGenerator(server.base_url, drawn(), lambda: at_s) as load,
    ):
        load.resize(1)
        at_s = 103.5
        await until(lambda: load.tokens_total > 6)
        assert load.now_s == 3.5
        assert set(load.records[0].chunk_s) == {3.5}


async def test_tokens_that_cannot_come_any_more_are_not_waited_for() -> None:
    async with serving(ScriptedServer()) as server, LoadGenerator(server.base_url, drawn(count=2)) as load:
        load.resize(1)
        load.aim(1_000)
        with pytest.raises(LoadError, match="run out"):
            await load.run_to_goal()


async def test_clients_can_be_stopped_in_mid_answer() -> None:
    server = ScriptedServer(hold=asyncio.Event())
    async with serving(server), LoadGenerator(server.base_url, drawn()) as load:
        load.resize(3)
        await until(lambda: server.running == 3)
        load.resize(1, at_once=True)
        assert load.clients == 1
        await load.run_for(0.05)  # a client that was sent away is no failure
        load.resize(2)
        await until(lambda: len(load.records) == 4)


async def test_prompts_may_change_while_the_load_runs() -> None:
    async with (
        serving(ScriptedServer()) as server,
        LoadGenerator(server.base_url, drawn(LoadKind.CHAT)) as load,
    ):
        load.resize(1)
        await until(lambda: len(load.records) > 2)
        load.prompts = drawn(LoadKind.KNOB)
        await until(lambda: "input_ids" in server.bodies[-1])


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (ScriptedServer(status=503), "answered 503: no room"),
        (ScriptedServer(error_event={"error": {"message": "out of memory"}}), "out of memory"),
        (ScriptedServer(break_off=True), "broke off"),
    ],
)
async def test_a_failed_request_fails_the_run(server: ScriptedServer, message: str) -> None:
    """A run that quietly lost requests would report a speed that nobody got."""
    async with serving(server):
        with pytest.raises(LoadError, match=message):
            await measure_seconds(server.base_url, drawn(), clients=2, ramp_s=0.0, seconds=WAIT_S)


async def test_a_server_that_is_gone_is_named() -> None:
    async with serving(ScriptedServer()) as server:
        gone = server.base_url
    with pytest.raises(LoadError, match=gone):
        await measure_requests(gone, drawn(count=1), clients=1)
