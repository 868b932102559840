"""From OTLP spans to observed steps; whatever is malformed becomes a cause."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from control_service.core.types import StepObservation
from turbospec.v1 import telemetry

UINT64_MAX = (1 << 64) - 1
# Field and wire type of AnyValue's int_value and bool_value.
_INT_TAG, _BOOL_TAG = b"\x18", b"\x10"
_REFUSAL_KEYS = tuple((telemetry.LEASE_REFUSALS + cause, cause) for cause in telemetry.LEASE_REFUSAL_CAUSES)


class MalformedSpanError(ValueError):
    """A span that is ours but cannot be read; `cause` is from a fixed vocabulary."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def engine_of(resource: Resource) -> tuple[str, int]:
    """engine_id and epoch of a resource. Raises MalformedSpanError."""
    values = {item.key: item.value for item in resource.attributes}
    engine_id = values.get(telemetry.ENGINE_ID)
    epoch = values.get(telemetry.EPOCH)
    if engine_id is None or engine_id.WhichOneof("value") != "string_value" or not engine_id.string_value:
        raise MalformedSpanError("engine_id")
    if epoch is None or epoch.WhichOneof("value") != "string_value":
        raise MalformedSpanError("epoch")
    text = epoch.string_value
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= UINT64_MAX):
        raise MalformedSpanError("epoch")
    return engine_id.string_value, int(text)


def step_of(span: Span) -> StepObservation:
    """The step that a span tells of. Raises MalformedSpanError; values are judged by the core."""
    values = _values(span.attributes)
    if span.end_time_unix_nano <= span.start_time_unix_nano:
        raise MalformedSpanError("duration")
    return StepObservation(
        step_index=_int(values, telemetry.STEP_INDEX),
        batch_size=_int(values, telemetry.BATCH_SIZE),
        context_tokens=_int(values, telemetry.CONTEXT_TOKENS),
        waiting_requests=_int(values, telemetry.WAITING_REQUESTS),
        num_steps=_int(values, telemetry.NUM_STEPS),
        previous_num_steps=_int(values, telemetry.PREVIOUS_NUM_STEPS),
        start_s=span.start_time_unix_nano * 1e-9,
        duration_s=(span.end_time_unix_nano - span.start_time_unix_nano) * 1e-9,
        accepted_drafts=_ints(values, telemetry.ACCEPTED_DRAFTS),
        first_step=_bools(values, telemetry.FIRST_STEP),
        source=_text(values, telemetry.DECISION_SOURCE),
        fallback_reason=_text(values, telemetry.FALLBACK_REASON, optional=True),
        decision_id=_int(values, telemetry.DECISION_ID),
        decision_wait_us=_float(values, telemetry.DECISION_WAIT_US),
        control_us=_float(values, telemetry.CONTROL_US),
        dropped_records=_int(values, telemetry.DROPPED_RECORDS, optional=True),
        after_full_accept=_bools(values, telemetry.AFTER_FULL_ACCEPT, optional=True),
        link_state=_link_state(values),
        lease_refusals=_lease_refusals(values),
        dropped_asks=_int(values, telemetry.DROPPED_ASKS, optional=True),
    )


def _link_state(values: dict[str, AnyValue]) -> str:
    state = _text(values, telemetry.LINK_STATE, optional=True)
    # A newer engine may know states that we do not.
    return state if state in telemetry.LINK_STATES else ""


def _lease_refusals(values: dict[str, AnyValue]) -> tuple[tuple[str, int], ...]:
    """Totals by cause, of the known causes: others must not grow what is kept."""
    return tuple((cause, _int(values, key)) for key, cause in _REFUSAL_KEYS if key in values)


def _values(attributes: Iterable[KeyValue]) -> dict[str, AnyValue]:
    return {item.key: item.value for item in attributes}


def _find(values: dict[str, AnyValue], key: str, kind: str) -> AnyValue:
    value = values.get(key)
    if value is None or value.WhichOneof("value") != kind:
        raise MalformedSpanError(key.removeprefix("turbospec."))
    return value


def _int(values: dict[str, AnyValue], key: str, *, optional: bool = False) -> int:
    if optional and key not in values:
        return 0
    return int(_find(values, key, "int_value").int_value)


def _text(values: dict[str, AnyValue], key: str, *, optional: bool = False) -> str:
    if optional and key not in values:
        return ""
    return str(_find(values, key, "string_value").string_value)[:64]


def _float(values: dict[str, AnyValue], key: str) -> float:
    value = values.get(key)
    if value is not None and value.WhichOneof("value") == "int_value":
        return float(value.int_value)
    return float(_find(values, key, "double_value").double_value)


def _ints(values: dict[str, AnyValue], key: str) -> tuple[int, ...]:
    array = _find(values, key, "array_value").array_value
    small = _one_byte_elements(array, _INT_TAG)
    if small is not None:
        return tuple(small)
    if any(item.WhichOneof("value") != "int_value" for item in array.values):
        raise MalformedSpanError(key.removeprefix("turbospec."))
    return tuple(item.int_value for item in array.values)


def _bools(values: dict[str, AnyValue], key: str, *, optional: bool = False) -> tuple[bool, ...]:
    if optional and key not in values:
        return ()
    array = _find(values, key, "array_value").array_value
    small = _one_byte_elements(array, _BOOL_TAG)
    if small is None:
        raise MalformedSpanError(key.removeprefix("turbospec."))
    return tuple(map(bool, small))


def _one_byte_elements(array: ArrayValue, tag: bytes) -> bytes | None:
    """The elements of an array that all have this tag and a value of one byte; None for any other array.

    Such an element takes four bytes: two that begin an AnyValue of two bytes, its tag, and the value.
    Asking each of a batch's elements for its kind would cost more than the rest of the span together.
    """
    encoded = array.SerializeToString()
    count, odd = divmod(len(encoded), 4)
    if odd or encoded[0::4] != b"\x0a" * count or encoded[1::4] != b"\x02" * count:
        return None
    return encoded[3::4] if encoded[2::4] == tag * count else None
