"""Arrays are read by their bytes where that is possible; nothing but the time it takes may show it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from control_service.server.otlp import MalformedSpanError, step_of
from tests.integration.service.synthetic_engine import make_span


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 64), min_size=0, max_size=80))
def test_any_integers_are_read_as_they_are(accepted: list[int]) -> None:
    assert step_of(make_span(1, 3, accepted, 0.01)).accepted_drafts == tuple(accepted)


@given(st.lists(st.booleans(), max_size=80))
def test_any_flags_are_read_as_they_are(flags: list[bool]) -> None:
    step = step_of(make_span(1, 3, [1], 0.01, first_step=flags, after_full_accept=flags))
    assert step.first_step == step.after_full_accept == tuple(flags)
    assert all(type(flag) is bool for flag in step.first_step)


@pytest.mark.parametrize("name", ["accepted_drafts", "first_step", "after_full_accept"])
@pytest.mark.parametrize(
    "odd",
    [
        AnyValue(),
        AnyValue(string_value="a"),
        AnyValue(string_value=""),
        AnyValue(double_value=1.0),
        AnyValue(bytes_value=b"\x18\x01"),
        AnyValue(bytes_value=b""),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_element_of_another_kind_refuses_the_span(name: str, odd: AnyValue, place: int) -> None:
    span = make_span(1, 3, [1, 2], 0.01, after_full_accept=[False, True])
    (attribute,) = [item for item in span.attributes if item.key == f"turbospec.{name}"]
    values = list(attribute.value.array_value.values)
    values.insert(place, odd)
    del attribute.value.array_value.values[:]
    attribute.value.array_value.values.extend(values)
    with pytest.raises(MalformedSpanError) as caught:
        step_of(span)
    assert caught.value.cause == name


@pytest.mark.parametrize(
    ("name", "values"),
    [("accepted_drafts", [True, False]), ("first_step", [1, 0]), ("after_full_accept", [0, 1])],
)
def test_flags_are_no_integers_and_integers_no_flags(name: str, values: list[object]) -> None:
    with pytest.raises(MalformedSpanError) as caught:
        step_of(make_span(1, 3, [1, 2], 0.01, **{name: values}))
    assert caught.value.cause == name
