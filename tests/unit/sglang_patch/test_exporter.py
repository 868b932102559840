"""Exports stay below what a server takes, and say how the link is."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from sglang_patch.board import Board
from sglang_patch.decision import LEASE, Decision
from sglang_patch.exporter import MAX_BATCH, MAX_REQUESTS, SpanFactory, fitting, link_attributes
from sglang_patch.link_state import STALE
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry as names
from turbospec.v1.control_pb2 import EngineProfile

GRPC_MESSAGE_MAX_BYTES = 4 << 20


def record(batch_size: int) -> StepRecord:
    made = StepRecord(1, batch_size, 10**9, 100, Decision(5, LEASE, decision_id=10**12), 10**15)
    made.num_steps = made.previous_num_steps = 5
    made.end_ns = made.start_ns + 10**7
    made.accepted_drafts = [5] * batch_size
    made.first_step = made.after_full_accept = [True] * batch_size
    return made


@given(st.lists(st.integers(1, 2 * MAX_REQUESTS), min_size=1, max_size=30))
def test_every_record_goes_out_once_within_the_limit_or_alone(sizes: list[int]) -> None:
    records = [StepRecord(1, size, 0, 0, Decision(0, LEASE), 0) for size in sizes]
    while records:
        count = fitting(records)
        assert 1 <= count <= len(records)
        assert count == 1 or sum(r.batch_size for r in records[:count]) <= MAX_REQUESTS
        del records[:count]


def test_the_largest_export_fits_into_a_message() -> None:
    board = Board(16, 4096)
    for cause in names.LEASE_REFUSAL_CAUSES:
        board.refuse(cause)
    spans = SpanFactory(EngineProfile(engine_id="x" * 128, epoch=2**63))
    for batch_size in (MAX_REQUESTS // MAX_BATCH, 4096):
        records = [record(batch_size)] * MAX_BATCH
        made = [spans.make(r, link_attributes(board)) for r in records[: fitting(records)]]
        assert encode_spans(made).ByteSize() < GRPC_MESSAGE_MAX_BYTES


def test_totals_are_left_out_while_zero() -> None:
    board = Board(16, 16)
    assert link_attributes(board) == {names.LINK_STATE: names.LINK_CONNECTING}
    board.tell_state(STALE)
    board.lose_ask()
    board.lose_records(3)
    board.refuse("duplicate")
    board.refuse("duplicate")
    assert link_attributes(board) == {
        names.LINK_STATE: names.LINK_STALE,
        names.DROPPED_ASKS: 1,
        names.DROPPED_RECORDS: 3,
        names.LEASE_REFUSALS + "duplicate": 2,
    }
