"""What one side writes to the shared memory the other side reads, whole or not at all."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from sglang_patch.board import MAX_BATCH_SIZE, REASONS, Board
from sglang_patch.decision import Decision
from sglang_patch.lease import MAX_TIERS, Lease
from sglang_patch.recorder import StepRecord
from turbospec.v1.telemetry import SOURCE_LEASE, SOURCES

U63 = st.integers(0, 2**63 - 1)


def pair(ring_size: int = 16) -> tuple[Board, Board]:
    """The engine's and the agent's view of one board."""
    engine = Board(ring_size)
    return engine, Board(ring_size, engine.descriptor)


def record(step: int, batch_size: int = 2) -> StepRecord:
    made = StepRecord(step, batch_size, 100, 0, Decision(3, SOURCE_LEASE), 1_000)
    made.accepted_drafts = [1] * batch_size
    made.first_step = [False] * batch_size
    made.end_ns = 2_000
    return made


@given(st.integers(1, 2**63), st.integers(0, 2**32), U63, U63)
def test_an_ask_arrives_as_it_was_written(step: int, batch: int, context: int, waiting: int) -> None:
    engine, agent = pair()
    assert agent.ask_sequence == 0
    engine.ask(1, 2, 3, 4)
    engine.ask(step, batch, context, waiting)
    assert agent.ask_sequence == 2
    assert agent.newest_ask() == (step, batch, context, waiting)


tiers = st.lists(st.tuples(st.integers(1, 2**32 - 1), st.integers(0, 64)), max_size=MAX_TIERS)


@given(st.builds(Lease, U63, U63, U63, U63, U63, st.integers(0, 9), st.integers(0, 99)), tiers)
def test_a_lease_arrives_as_it_was_posted(head: Lease, table: list[tuple[int, int]]) -> None:
    lease = head._replace(max_batch_sizes=tuple(t[0] for t in table), num_steps=tuple(t[1] for t in table))
    engine, agent = pair()
    assert engine.lease() is None, "no stream yet"
    agent.connected()
    agent.post(lease)
    assert engine.lease() == lease
    agent.disconnected()
    assert engine.lease() is None


@given(
    st.lists(st.integers(0, 64), max_size=200),
    st.sampled_from(SOURCES),
    st.sampled_from(REASONS),
    st.lists(U63, min_size=9, max_size=9),
    st.lists(st.integers(-1, 64), min_size=3, max_size=3),
)
def test_a_record_arrives_as_it_was_pushed(
    accepted: list[int], source: str, reason: str, numbers: list[int], lengths: list[int]
) -> None:
    engine, agent = pair()
    sent = StepRecord(
        numbers[0], len(accepted), numbers[1], 7, Decision(lengths[0], source, reason, 5, lengths[1], 6), 8
    )
    sent.num_steps = lengths[0]
    sent.previous_num_steps = lengths[2]
    sent.accepted_drafts = accepted
    sent.first_step = [count % 2 == 0 for count in accepted]
    sent.control_ns, sent.end_ns, sent.draft_ns, sent.verify_ns, sent.draft_extend_ns = numbers[4:]
    engine.push(sent)
    (received,) = agent.take(9)
    unsent = {"processed_ns"}
    assert {k: v for k, v in vars(received).items() if k not in unsent} == vars(sent)
    assert agent.take(9) == []


def test_a_full_ring_drops_and_counts_and_goes_on() -> None:
    engine, agent = pair(ring_size=4)
    for step in range(1, 8):
        engine.push(record(step))
    assert agent.dropped == 3
    assert [entry.step_index for entry in agent.take(2)] == [1, 2]
    engine.push(record(8))
    assert [entry.step_index for entry in agent.take(9)] == [3, 4, 8]
    engine.push(record(9, batch_size=MAX_BATCH_SIZE + 1))
    assert agent.dropped == 4


def test_a_reader_never_sees_half_a_lease() -> None:
    """The writer posts leases whose every number is the same; a torn read would mix two."""
    engine, agent = pair()
    agent.connected()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            agent.post(Lease(number, number, number, number, number, number, number, (number,), (number,)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = set()
        while len(seen) < 300:
            lease = engine.lease()
            assert lease is not None
            if lease.num_steps:
                numbers = {*lease[:7], *lease.max_batch_sizes, *lease.num_steps}
                assert len(numbers) == 1
                seen |= numbers
    finally:
        stop.set()
        writer.join()
