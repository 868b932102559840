"""Exports stay below what a server takes, and say how the link is."""

import threading
from typing import cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sglang_patch import exporter as exporter_module
from sglang_patch.board import Board
from sglang_patch.decision import LEASE, Decision
from sglang_patch.exporter import (
    MAX_BATCH,
    MAX_REQUESTS,
    SpanExporter,
    SpanFactory,
    fitting,
    link_attributes,
)
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


class Service:
    """A way whose channel counts the records of each export."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.exports: list[int] = []
        monkeypatch.setattr(exporter_module, "TraceServiceStub", lambda _channel: self)

    def Export(self, request: ExportTraceServiceRequest, timeout: float) -> None:
        spans = [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
        self.exports.append(len(spans))

    def channel(self) -> grpc.Channel:
        return cast("grpc.Channel", self)

    def failed(self) -> None:
        raise AssertionError("nothing fails here")


class Intervals:
    """Stands for the exporter's event: before every look so many steps end; then it closes."""

    def __init__(self, board: Board, steps: list[int], batch_size: int) -> None:
        self._board = board
        self._steps = steps
        self._batch_size = batch_size

    def wait(self, _seconds: float) -> bool:
        if not self._steps:
            return True
        for _ in range(self._steps.pop(0)):
            self._board.push(record(self._batch_size))
            self._board.ask(1, self._batch_size, 0, 0)
        return False


@pytest.mark.parametrize(
    ("batch_size", "steps", "exports"),
    [
        (1, [10, 10, 10], [10, 10, 10]),
        (1, [5, 5, 5, 5], [10, 10]),
        (7, [2] * 7, [8, 6]),
        (1, [1] * 7, [5, 2]),
        (1, [0, 0, 0, 0, 0, 1], [1]),
        (1, [3], [3]),
        (64, [1, 1, 2], [1, 1, 2]),
        (32, [1, 1, 1], [2, 1]),
    ],
)
def test_few_steps_wait_for_more_but_not_for_long(
    batch_size: int, steps: list[int], exports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(64, 64)
    service = Service(monkeypatch)
    exporter = SpanExporter(way=service, profile=EngineProfile(engine_id="e"), board=board, interval_ms=1)
    exporter._closing = cast("threading.Event", Intervals(board, list(steps), batch_size))
    exporter._run()
    assert service.exports == exports
    assert board.records == 0
