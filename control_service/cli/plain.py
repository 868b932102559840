"""Protocol buffers as plain JSON values: numbers stay numbers, and what is not a number yet is null."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.message import Message


def to_plain(message: Message) -> dict[str, Any]:
    """Every field of `message`, set or not, under its name in the .proto file.

    protobuf's own JSON writes 64-bit integers as strings and NaN as "NaN", which jq cannot calculate with.
    """
    return {field.name: _field(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _field(field: Any, value: Any) -> Any:
    if not field.is_repeated:
        return _single(field, value)
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return {str(key): _single(entry.fields_by_name["value"], value[key]) for key in sorted(value)}
    return [_single(field, item) for item in value]


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_plain(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type.values_by_number[value].name)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def enum_name(name: str) -> str:
    """`MODE_ENFORCE` as `enforce`."""
    return name.partition("_")[2].lower()
