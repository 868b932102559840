"""What one side writes to the shared memory the other side reads, whole or not at all."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_patch.board import Board
from sglang_patch.decision import LEASE, REASON_NAMES, SOURCE_NAMES, Decision
from sglang_patch.lease import Lease
from sglang_patch.recorder import StepRecord

MAX_BATCH_SIZE = 200
U63 = st.integers(0, 2**63 - 1)


def pair(ring_size: int = 16) -> tuple[Board, Board]:
    """The engine's and the agent's view of one board."""
    engine = Board(ring_size, MAX_BATCH_SIZE)
    return engine, Board(ring_size, MAX_BATCH_SIZE, engine.descriptor)


def record(step: int, batch_size: int = 2) -> StepRecord:
    made = StepRecord(step, batch_size, 100, 0, Decision(3, LEASE), 1_000)
    made.accepted_drafts = [1] * batch_size
    made.first_step = made.after_full_accept = [False] * batch_size
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


limits = st.lists(st.integers(1, 300), min_size=1, max_size=9, unique=True).map(sorted)


@given(
    st.tuples(U63, U63, U63, U63, U63, st.integers(0, 9), st.integers(0, 99)),
    limits,
    st.lists(st.integers(0, 64), min_size=9, max_size=9),
    st.integers(1, 400),
)
def test_a_lease_reads_for_every_batch_as_it_was_posted(
    head: tuple[int, ...], limits: list[int], lengths: list[int], batch_size: int
) -> None:
    lease = Lease(*head, tuple(limits), tuple(lengths[: len(limits)]))  # type: ignore[arg-type]
    engine, agent = pair()
    assert engine.lease(batch_size) is None, "no stream yet"
    agent.connect()
    agent.post(lease)
    length = lease.length_for(batch_size) if batch_size <= MAX_BATCH_SIZE else 0
    assert engine.lease(batch_size) == (
        lease.decision_id,
        lease.first_step,
        lease.last_step,
        lease.expires_ns,
        lease.mode,
        lease.canary_percent,
        length,
    )
    agent.disconnect()
    assert engine.lease(batch_size) is None
    agent.connect()
    reading = engine.lease(batch_size)
    assert reading is not None
    assert reading[1] > reading[2], "a stream that came back has promised nothing yet"


@given(
    st.lists(st.integers(0, 64), max_size=200),
    st.integers(0, len(SOURCE_NAMES) - 1),
    st.integers(0, len(REASON_NAMES) - 1),
    st.lists(U63, min_size=9, max_size=9),
    st.lists(st.integers(-1, 64), min_size=3, max_size=3),
)
def test_a_record_arrives_as_it_was_pushed(
    accepted: list[int], source: int, reason: int, numbers: list[int], lengths: list[int]
) -> None:
    engine, agent = pair()
    sent = StepRecord(
        numbers[0], len(accepted), numbers[1], 7, Decision(lengths[0], source, reason, 5, lengths[1], 6), 8
    )
    sent.num_steps = lengths[0]
    sent.previous_num_steps = lengths[2]
    sent.accepted_drafts = accepted
    sent.first_step = [count % 2 == 0 for count in accepted]
    sent.after_full_accept = [count % 3 == 0 for count in accepted]
    sent.control_ns, sent.end_ns, sent.draft_ns, sent.verify_ns, sent.draft_extend_ns = numbers[4:]
    engine.push(sent)
    (received,) = agent.take(9)
    unsent = {"processed_ns"}
    assert {k: v for k, v in vars(received).items() if k not in unsent} == vars(sent)
    assert agent.take(9) == []


@pytest.mark.parametrize("field", ["accepted_drafts", "first_step", "after_full_accept"])
def test_a_record_that_does_not_fit_its_batch_is_not_written(field: str) -> None:
    engine, agent = pair()
    sent = record(1, batch_size=3)
    setattr(sent, field, [1, 1])
    with pytest.raises(ValueError, match="8 bytes of 3 requests"):
        engine.push(sent)
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


def test_a_record_with_a_number_that_cannot_be_is_dropped_and_counted() -> None:
    engine, agent = pair()
    engine.push(record(1))
    backwards = record(2)
    backwards.control_ns = -1
    engine.push(backwards)
    engine.push(record(3))
    assert agent.dropped == 1
    assert [entry.step_index for entry in agent.take(9)] == [1, 3]


def test_a_reader_never_sees_half_a_lease() -> None:
    """The writer posts leases whose every number is the same; a torn read would mix two."""
    engine, agent = pair()
    agent.post(Lease(1, 1, 1, 1, 1, 1, 1, (9,), (1,)))
    agent.connect()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number = number % 60 + 1
            agent.post(Lease(number, number, number, number, number, number, number, (9,), (number,)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20_000):
            reading = engine.lease(4)
            assert reading is not None
            assert len(set(reading)) == 1
    finally:
        stop.set()
        writer.join()
