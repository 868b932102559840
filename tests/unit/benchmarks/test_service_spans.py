"""The load generator's bytes must be what the plugin sends, or the service is loaded with something else."""

from __future__ import annotations

import itertools

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.service.load import CANDIDATES, profile_of
from benchmarks.service.spans import FIRST_STEP, LINK, ExportEnvelope, SpanPool, varint
from control_service.core.validation import check_profile, rejection_cause
from control_service.server.otlp import engine_of, step_of
from control_service.server.wire import profile_from_proto
from sglang_patch.decision import LEASE, Decision
from sglang_patch.exporter import SpanFactory
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry

BATCH = 64
START_NS = 1_700_000_000_000_000_000
PROFILE = profile_of(3, BATCH)


def exported(spans: list[bytes]) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(ExportEnvelope(PROFILE).around(spans))


def test_the_profile_keeps_to_the_contract() -> None:
    check_profile(profile_from_proto(PROFILE))


def test_every_span_reads_as_the_step_it_was_filled_for() -> None:
    pool = SpanPool(PROFILE, BATCH)
    lengths = list(itertools.islice(itertools.cycle(CANDIDATES), 200))
    wanted = [
        (FIRST_STEP + 70_000 * number, length, previous)
        for number, (previous, length) in enumerate(itertools.pairwise(lengths))
    ]
    spans = [
        pool.span(3, step, length, previous, START_NS + number)
        for number, (step, length, previous) in enumerate(wanted)
    ]
    request = exported(spans)
    assert engine_of(request.resource_spans[0].resource) == (PROFILE.engine_id, PROFILE.epoch)
    steps = [step_of(span) for span in request.resource_spans[0].scope_spans[0].spans]
    assert [(step.step_index, step.num_steps, step.previous_num_steps) for step in steps] == wanted
    assert {rejection_cause(step, profile_from_proto(PROFILE)) for step in steps} == {None}
    assert all(0.007 < step.duration_s < 0.016 for step in steps)
    assert {step.batch_size for step in steps} == {BATCH}
    # Drafts are accepted and refused, or there would be nothing to learn.
    assert {count for step in steps for count in step.accepted_drafts} == set(range(CANDIDATES[-1] + 1))


def test_a_filled_span_has_what_the_plugins_own_exporter_puts_there() -> None:
    record = StepRecord(FIRST_STEP, BATCH, 64_000, 0, Decision(3, LEASE, decision_id=FIRST_STEP), 1)
    record.end_ns, record.num_steps, record.previous_num_steps, record.control_ns = 10, 3, 3, 40_000
    record.accepted_drafts = [1] * BATCH
    record.first_step = record.after_full_accept = [False] * BATCH
    theirs = encode_spans([SpanFactory(PROFILE).make(record, LINK)])
    ours = exported([SpanPool(PROFILE, BATCH).span(0, FIRST_STEP, 3, 3, START_NS)])
    assert ours.resource_spans[0].resource == theirs.resource_spans[0].resource
    assert ours.resource_spans[0].scope_spans[0].scope == theirs.resource_spans[0].scope_spans[0].scope
    ours_span, their_span = (r.resource_spans[0].scope_spans[0].spans[0] for r in (ours, theirs))
    assert [item.key for item in ours_span.attributes] == [item.key for item in their_span.attributes]
    assert ours_span.name == telemetry.SPAN_DECODE_STEP
    assert ours_span.kind == their_span.kind


@pytest.mark.parametrize(("value", "encoded"), [(0, "00"), (127, "7f"), (128, "8001"), (1 << 21, "80808001")])
def test_varints(value: int, encoded: str) -> None:
    assert varint(value).hex() == encoded
