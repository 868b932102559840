"""Export requests of an engine that runs at full speed, as cheap to make as a copy.

A span of the plugin's own making is encoded once for each length and each of a few drawings of accepted
drafts. What differs from step to step (indices, times, identifiers) has a fixed width in those bytes
and is written over, so that the load generator costs a fraction of the service it loads.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.util.types import AttributeValue

from sglang_patch.decision import LEASE, Decision
from sglang_patch.exporter import SpanFactory
from sglang_patch.recorder import StepRecord
from turbospec.v1 import telemetry
from turbospec.v1.control_pb2 import EngineProfile

# Step indices of four varint bytes, all of them: from here to 2 ** 28.
FIRST_STEP: Final = 1 << 21
VARIANTS: Final = 32
ACCEPTANCE: Final = 0.7
CONTEXT_TOKENS_PER_REQUEST: Final = 1_000
STEP_NS: Final = 10_000_000
# What every span of an export says of the link.
LINK: Final[dict[str, AttributeValue]] = {telemetry.LINK_STATE: "fresh"}
SPAN_TAG: Final = b"\x12"
_TRACE_ID: Final = struct.Struct(">QQ")
_SPAN_ID: Final = struct.Struct(">Q")
_UNIX_NS: Final = struct.Struct("<Q")
_START_NS: Final = 0x0102_0304_0506_0708


class SpanTemplate:
    """One encoded span with its length in front, and the places that change from step to step."""

    def __init__(self, record: StepRecord, factory: SpanFactory) -> None:
        span = encode_spans([factory.make(record, LINK)]).resource_spans[0].scope_spans[0].spans[0]
        duration_ns = span.end_time_unix_nano - span.start_time_unix_nano
        span.start_time_unix_nano, span.end_time_unix_nano = _START_NS, _START_NS + duration_ns
        encoded = span.SerializeToString()
        if encoded[:2] != b"\x0a\x10" or encoded[18:20] != b"\x12\x08":
            raise AssertionError("a span is expected to begin with its two identifiers")
        head = SPAN_TAG + varint(len(encoded))
        self._bytes = bytearray(head + encoded)
        self._duration_ns = duration_ns
        self._trace_id_at = len(head) + 2
        self._start_at = self._bytes.index(_START_NS.to_bytes(8, "little"))
        self._step_at = self._after(telemetry.STEP_INDEX, 4)
        self._decision_at = self._after(telemetry.DECISION_ID, 4)
        self._previous_at = self._after(telemetry.PREVIOUS_NUM_STEPS, 1)

    def fill(self, engine: int, step_index: int, previous_num_steps: int, start_ns: int) -> bytes:
        """The span of one step, ready to stand in a ScopeSpans message."""
        data = self._bytes
        _TRACE_ID.pack_into(data, self._trace_id_at, engine + 1, step_index)
        _SPAN_ID.pack_into(data, self._trace_id_at + 18, step_index)
        _UNIX_NS.pack_into(data, self._start_at, start_ns)
        _UNIX_NS.pack_into(data, self._start_at + 9, start_ns + self._duration_ns)
        index = varint(step_index)
        data[self._step_at : self._step_at + 4] = index
        data[self._decision_at : self._decision_at + 4] = index
        data[self._previous_at] = previous_num_steps
        return bytes(data)

    def _after(self, name: str, width: int) -> int:
        """Where the integer of an attribute stands: behind its key and the heads of two messages."""
        key = name.encode()
        at = self._bytes.index(bytes([len(key)]) + key) + 1 + len(key)
        if self._bytes[at : at + 3] != bytes([0x12, width + 1, 0x18]):
            raise AssertionError(f"{name} is expected to be an integer of {width} bytes")
        return at + 3


class SpanPool:
    """Templates for every length, shared by all engines: nothing in a span tells whose it is."""

    def __init__(self, profile: EngineProfile, batch_size: int) -> None:
        drawn = random.Random(1)
        factory = SpanFactory(profile)
        self._batch_size = batch_size
        self._templates = {
            length: [self._template(length, factory, drawn) for _ in range(VARIANTS)]
            for length in profile.candidate_num_steps
        }

    def span(
        self, engine: int, step_index: int, num_steps: int, previous_num_steps: int, start_ns: int
    ) -> bytes:
        """One step's, as it stands in a ScopeSpans message."""
        templates = self._templates[num_steps]
        template = templates[(step_index + engine) % VARIANTS]
        return template.fill(engine, step_index, previous_num_steps, start_ns)

    def _template(self, length: int, factory: SpanFactory, drawn: random.Random) -> SpanTemplate:
        size = self._batch_size
        record = StepRecord(FIRST_STEP, size, size * CONTEXT_TOKENS_PER_REQUEST, 0, _decided(length), 1)
        record.end_ns = 1 + round(STEP_NS * (0.9 + 0.02 * length) * drawn.lognormvariate(0.0, 0.05))
        record.num_steps = record.previous_num_steps = length
        record.control_ns = 40_000
        record.accepted_drafts = [_accepted(length, drawn) for _ in range(size)]
        record.first_step = [False] * size
        record.after_full_accept = [drawn.random() < ACCEPTANCE**length for _ in range(size)]
        return SpanTemplate(record, factory)


class ExportEnvelope:
    """What stands around the spans of one engine in an ExportTraceServiceRequest."""

    def __init__(self, profile: EngineProfile) -> None:
        factory = SpanFactory(profile)
        record = StepRecord(1, 1, 1, 0, _decided(0), 1)
        record.num_steps = record.previous_num_steps = 0
        encoded = encode_spans([factory.make(record, LINK)]).resource_spans[0]
        self._resource = ResourceSpans(resource=encoded.resource).SerializeToString()
        self._scope = ScopeSpans(scope=encoded.scope_spans[0].scope).SerializeToString()

    def around(self, spans: Sequence[bytes]) -> bytes:
        """A whole request."""
        scope_spans = _field(0x12, [self._scope, *spans])
        return b"".join(_field(0x0A, [self._resource, *scope_spans]))


def varint(value: int) -> bytes:
    """Base 128, least significant group first.

    >>> varint(300).hex()
    'ac02'
    """
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _field(tag: int, parts: Iterable[bytes]) -> list[bytes]:
    """A message field in pieces: tag, length, content."""
    content = list(parts)
    return [bytes([tag]), varint(sum(map(len, content))), *content]


def _decided(length: int) -> Decision:
    return Decision(length, LEASE, decision_id=FIRST_STEP)


def _accepted(length: int, drawn: random.Random) -> int:
    count = 0
    while count < length and drawn.random() < ACCEPTANCE:
        count += 1
    return count
