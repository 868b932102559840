"""Spoils messages: their bytes at random, or their fields while they stay well-formed.

Random bytes hardly get past a decoder; a well-formed message with one odd field gets to the logic behind it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

SIZE_MAX_BYTES: Final = 32 * 1024
DEPTH_MAX: Final = 12
# Elements that a repeated field is grown by at once.
GROWTH_MAX: Final = 64

_UNSIGNED_32: Final = (0, 1, 2, 3, 5, 16, 63, 64, 255, 256, 65_535, 65_536, 1 << 31, (1 << 32) - 1)
_UNSIGNED_64: Final = (
    *_UNSIGNED_32,
    1 << 32,
    1 << 40,
    (1 << 40) + 1,
    1 << 53,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_SIGNED_32: Final = (0, 1, -1, 5, -5, (1 << 31) - 1, -(1 << 31))
_SIGNED_64: Final = (*_SIGNED_32, 1 << 40, 1 << 53, (1 << 63) - 1, -(1 << 63))
_REALS: Final = (0.0, -0.0, 1.0, -1.0, 1e-9, 5e-324, 1e300, -1e300, float("inf"), float("-inf"), float("nan"))
_TEXTS: Final = (
    "",
    "0",
    "1",
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "²",
    "a" * 600,
    "\x00\n",
    "engine",
    "lease",
    "fallback",
    "\U0001f600" * 40,
)
_CPP: Final = FieldDescriptor
_VALUES: Final[dict[int, Sequence[Any]]] = {
    _CPP.CPPTYPE_UINT32: _UNSIGNED_32,
    _CPP.CPPTYPE_UINT64: _UNSIGNED_64,
    _CPP.CPPTYPE_INT32: _SIGNED_32,
    _CPP.CPPTYPE_INT64: _SIGNED_64,
    _CPP.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 5, 99, -1, (1 << 31) - 1),
    _CPP.CPPTYPE_DOUBLE: _REALS,
    _CPP.CPPTYPE_FLOAT: _REALS,
    _CPP.CPPTYPE_BOOL: (False, True),
    _CPP.CPPTYPE_STRING: _TEXTS,
}
_JSON_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    1,
    1 << 53,
    1 << 64,
    10**400,
    0.5,
    -0.5,
    1e-300,
    1e300,
    float("inf"),
    float("nan"),
    "",
    "x",
    [],
    {},
    [[]],
    [0] * 40,
)


class Mutator:
    """Owns the chance; the same seed spoils the same messages in the same way."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def message(self, data: bytes, others: Sequence[bytes], kind: type[Message]) -> bytes:
        """Spoilt one to four times, in its fields more often than in its bytes."""
        for _ in range(self.times()):
            data = self.fields(data, kind) if self.chance.random() < 0.7 else self.raw(data, others)
        return data

    def times(self) -> int:
        return self.chance.choice((1, 1, 2, 4))

    def raw(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """Flip, overwrite, insert, remove or repeat some bytes, or go on with another message."""
        chance = self.chance
        spoilt = bytearray(data)
        start = chance.randrange(len(spoilt) + 1)
        end = min(len(spoilt), start + chance.choice((1, 1, 2, 4, 8, 64)))
        action = chance.randrange(6)
        if action == 0 and start < len(spoilt):
            spoilt[start] ^= 1 << chance.randrange(8)
        elif action == 1:
            spoilt[start:end] = chance.randbytes(end - start)
        elif action == 2:
            spoilt[start:start] = chance.choice(
                (b"\xff" * 9 + b"\x01", b"\x00", b"\x80" * 11, chance.randbytes(4))
            )
        elif action == 3:
            del spoilt[start:end]
        elif action == 4:
            spoilt[start:start] = spoilt[start:end] * chance.choice((1, 2, 16))
        elif others:
            other = chance.choice(others)
            spoilt[start:] = other[chance.randrange(len(other) + 1) :]
        return bytes(spoilt[:SIZE_MAX_BYTES])

    def fields(self, data: bytes, kind: type[Message]) -> bytes:
        """Change one field anywhere in the message; spoil its bytes if it is none."""
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            return self.raw(data)
        self._change(*self._somewhere(message))
        changed: bytes = message.SerializeToString()
        return changed if len(changed) <= SIZE_MAX_BYTES else data

    def json(self, data: bytes) -> bytes:
        """Change one value anywhere in a JSON document; spoil its bytes if it is none."""
        try:
            document = json.loads(data)
        except ValueError:
            return self.raw(data)
        holder: Any = document
        for _ in range(DEPTH_MAX):
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = self.chance.choice(keys)
            if isinstance(holder[key], (dict, list)) and holder[key] and self.chance.random() < 0.8:
                holder = holder[key]
                continue
            if self.chance.random() < 0.2:
                del holder[key]
            else:
                holder[key] = self.chance.choice(_JSON_VALUES)
            break
        return json.dumps(document).encode()

    def _somewhere(self, message: Message) -> tuple[Message, FieldDescriptor]:
        """A field of the message or of one inside it; rather one that is set."""
        chance = self.chance
        for _ in range(DEPTH_MAX):
            present = [field for field, _ in message.ListFields()]
            if not present or chance.random() < 0.1:
                break
            # Where there is much there is much to spoil.
            (field,) = chance.choices(present, [4 if field.is_repeated else 1 for field in present])
            if field.message_type is None or chance.random() < 0.1:
                return message, field
            inside = getattr(message, field.name)
            message = chance.choice(inside) if field.is_repeated else inside
        fields: Sequence[FieldDescriptor] = message.DESCRIPTOR.fields
        return message, chance.choice(fields)

    def _change(self, message: Message, field: FieldDescriptor) -> None:
        if field.is_repeated:
            self._change_repeated(getattr(message, field.name), field)
        elif self.chance.random() < 0.2:
            message.ClearField(field.name)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, self._value(field))

    def _change_repeated(self, values: Any, field: FieldDescriptor) -> None:
        chance = self.chance
        action = chance.randrange(4)
        if action == 0 and len(values):
            del values[chance.randrange(len(values))]
        elif field.message_type is not None:
            if len(values):
                source = chance.choice(values)
                values.extend([source] * chance.choice((1, 1, 2, GROWTH_MAX)))
            else:
                values.add()
        elif action == 1 and len(values):
            values[chance.randrange(len(values))] = self._value(field)
        else:
            values.extend([self._value(field) for _ in range(chance.choice((1, 1, GROWTH_MAX)))])

    def _value(self, field: FieldDescriptor) -> Any:
        if field.cpp_type == _CPP.CPPTYPE_STRING and field.type == _CPP.TYPE_BYTES:
            return self.chance.randbytes(self.chance.choice((0, 1, 8, 16, 600)))
        return self.chance.choice(_VALUES[field.cpp_type])
