"""What leaves the engine: numbers, and words of fixed vocabularies; never text of requests or token ids."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan

import sglang_patch
from sglang_patch import exporter
from sglang_patch.board import Board
from sglang_patch.decision import REASON_NAMES, SOURCE_NAMES, Decision
from sglang_patch.exporter import SpanFactory, link_attributes
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry
from turbospec.v1.control_pb2 import EngineProfile

# Written out, so that whoever adds one stops here and thinks of what it may give away.
NUMBERS = {
    "turbospec.step_index",
    "turbospec.batch_size",
    "turbospec.context_tokens",
    "turbospec.waiting_requests",
    "turbospec.num_steps",
    "turbospec.previous_num_steps",
    "turbospec.decision_id",
    "turbospec.decision_wait_us",
    "turbospec.control_us",
    "turbospec.accepted_drafts",
    "turbospec.first_step",
    "turbospec.after_full_accept",
    "turbospec.shadow_num_steps",
    "turbospec.draft_ms",
    "turbospec.verify_ms",
    "turbospec.draft_extend_ms",
    "turbospec.dropped_records",
    "turbospec.dropped_asks",
    *(f"turbospec.lease_refusals.{cause}" for cause in telemetry.LEASE_REFUSAL_CAUSES),
}
WORDS = {
    "turbospec.decision_source": set(SOURCE_NAMES),
    "turbospec.fallback_reason": set(REASON_NAMES) - {""},
    "turbospec.link_state": set(telemetry.LINK_STATES),
}
RESOURCE = {"service.name", "service.instance.id", "turbospec.engine_id", "turbospec.epoch"}

counts = st.integers(0, 1 << 40)


@st.composite
def records(draw: st.DrawFn) -> StepRecord:
    """Any record, with everything in it that can be."""
    length = draw(st.integers(0, 8))
    decision = Decision(
        num_steps=length,
        source=draw(st.integers(0, len(SOURCE_NAMES) - 1)),
        reason=draw(st.integers(0, len(REASON_NAMES) - 1)),
        decision_id=draw(counts),
        shadow_num_steps=draw(st.integers(-1, 8)),
        wait_ns=draw(counts),
    )
    size = draw(st.integers(1, 4))
    record = StepRecord(draw(counts), size, draw(counts), draw(counts), decision, 1)
    record.end_ns = 2
    record.num_steps, record.previous_num_steps = length, draw(st.integers(-1, 8))
    record.accepted_drafts = [draw(st.integers(0, length)) for _ in range(size)]
    record.first_step = [draw(st.booleans()) for _ in range(size)]
    record.after_full_accept = [draw(st.booleans()) for _ in range(size)]
    record.control_ns, record.draft_ns = draw(counts), draw(counts)
    record.verify_ns, record.draft_extend_ns = draw(counts), draw(counts)
    return record


def made(record: StepRecord) -> ReadableSpan:
    """The record's span, of a link to which everything has happened."""
    board = Board(ring_size=16, max_batch_size=4)
    board.lose_ask()
    board.lose_records(1)
    for cause in telemetry.LEASE_REFUSAL_CAUSES:
        board.refuse(cause)
    return SpanFactory(EngineProfile(engine_id="engine", epoch=7)).make(record, link_attributes(board))


@settings(deadline=None, max_examples=60)
@given(record=records())
def test_a_span_holds_what_is_on_the_list_and_nothing_else(record: StepRecord) -> None:
    span = made(record)
    attributes = dict(span.attributes or {})
    assert attributes.keys() <= NUMBERS | WORDS.keys()
    for name, value in attributes.items():
        if name in WORDS:
            assert value in WORDS[name]
            continue
        values = value if isinstance(value, tuple | list) else [value]
        assert all(isinstance(item, bool | int | float) for item in values), name
        # One number a request at most: a list of tokens would be longer.
        assert len(values) <= record.batch_size, name
    assert span.name == "sglang.decode_step"
    assert span.events == ()
    assert span.links == ()
    assert set(span.resource.attributes) == RESOURCE


def test_the_list_has_nothing_that_no_span_can_hold() -> None:
    decision = Decision(2, 1, reason=1, shadow_num_steps=1)
    record = StepRecord(1, 1, 1, 1, decision, 1)
    record.end_ns, record.draft_ns, record.verify_ns, record.draft_extend_ns = 2, 1, 1, 1
    record.accepted_drafts, record.first_step, record.after_full_accept = [1], [True], [True]
    assert set(made(record).attributes or {}) == NUMBERS | WORDS.keys()


def test_a_record_has_no_place_for_text() -> None:
    record = StepRecord(1, 1, 1, 1, Decision(0, 0), 1)
    names = {name for name, _ in inspect.getmembers(record) if not name.startswith("_")}
    assert not [name for name in names if {"text", "prompt", "ids", "input", "output"} & set(name.split("_"))]
    fields = [getattr(record, name) for name in names if name != "decision"]
    assert all(isinstance(value, int | tuple) for value in fields), names


def test_spans_are_made_in_one_place() -> None:
    makers = []
    for path in Path(sglang_patch.__file__).parent.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {getattr(call, "id", getattr(call, "attr", "")) for call in calls}
        if names & {"ReadableSpan", "start_span", "start_as_current_span", "set_attribute", "add_event"}:
            makers.append(path.name)
    assert makers == [Path(exporter.__file__).name]


@pytest.mark.parametrize("name", sorted(NUMBERS | WORDS.keys()))
def test_every_name_is_one_of_the_contract(name: str) -> None:
    stem, _, cause = name.partition(telemetry.LEASE_REFUSALS)
    assert name in vars(telemetry).values() or (not stem and cause in telemetry.LEASE_REFUSAL_CAUSES)
