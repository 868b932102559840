"""A service that lies over the real wire: none of it may be obeyed.

Honest answers name length 3 only; a lie that carries a length of the candidates names another, so that one
step run by it would show.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.stage import HostileStage
from tests.support.hostile_service import POISON, Lie
from turbospec.v1.control_pb2 import DecideResponse, Tier

# Not among the stepped engine's candidates, though below its launch length.
UNKNOWN_LENGTH: Final = 2
OVERSIZED_BYTES: Final = 64 * 1024


def poisoned(change: Callable[[DecideResponse], None]) -> Lie:
    """An honest answer but for one change, and for the length it names."""

    def lie(answer: DecideResponse, _past: Sequence[bytes]) -> list[bytes]:
        del answer.tiers[:]
        answer.tiers.append(Tier(max_batch_size=16, num_steps=POISON))
        change(answer)
        return [answer.SerializeToString()]

    return lie


def length(encoded: bytes) -> Lie:
    """An honest answer whose length is these bytes: a field of the tier, with its tag."""

    def lie(answer: DecideResponse, _past: Sequence[bytes]) -> list[bytes]:
        del answer.tiers[:]
        tier = Tier(max_batch_size=16).SerializeToString() + encoded
        return [answer.SerializeToString() + _field(9, 2) + varint(len(tier)) + tier]

    return lie


def varint(value: int) -> bytes:
    """Protobuf's encoding of an unsigned integer of up to 64 bits."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _field(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


_NUM_STEPS_VARINT: Final = _field(2, 0)


def _wrong_epoch(answer: DecideResponse) -> None:
    answer.epoch += random.choice((-1, 1, 1 << 40))


def _future(answer: DecideResponse) -> None:
    answer.step_index += 1_000


def _endless(answer: DecideResponse) -> None:
    answer.valid_for_steps, answer.valid_for_ms = 0xFFFFFFFF, 0xFFFFFFFF


def _replay(_answer: DecideResponse, past: Sequence[bytes]) -> list[bytes]:
    return list(past[-8:])


def _duplicate(answer: DecideResponse, _past: Sequence[bytes]) -> list[bytes]:
    return [answer.SerializeToString()] * 3


class _Reorder:
    """The newer of two answers leaves before the older, always."""

    def __init__(self) -> None:
        self._held = b""

    def __call__(self, answer: DecideResponse, _past: Sequence[bytes]) -> list[bytes]:
        newer, older = answer.SerializeToString(), self._held
        if not older:
            self._held = newer
            return []
        self._held = b""
        return [newer, older]


def _garbage(_answer: DecideResponse, _past: Sequence[bytes]) -> list[bytes]:
    return [b"\xff" + random.randbytes(40)]


def _oversized(answer: DecideResponse, _past: Sequence[bytes]) -> list[bytes]:
    return [answer.SerializeToString() + _field(100, 2) + varint(OVERSIZED_BYTES) + bytes(OVERSIZED_BYTES)]


def _fault(
    name: str, does: str, lie: Lie, *, must_lose_control: bool = True, short: bool = True
) -> Fault[HostileStage]:
    def begin(stage: HostileStage) -> None:
        stage.hostile.lie = lie

    def end(stage: HostileStage) -> None:
        stage.hostile.lie = None

    return Fault(
        name,
        does,
        HostileStage,
        inject=begin,
        heal=end,
        must_lose_control=must_lose_control,
        steps=200,
        short_form=short,
    )


FAULTS: Final = (
    _fault(
        "lease of a wrong epoch",
        "every answer names an epoch before, after or far after",
        poisoned(_wrong_epoch),
    ),
    _fault(
        "lease of a future step", "every answer is for a step not asked for", poisoned(_future), short=False
    ),
    _fault(
        "endless lease",
        "every answer holds for 2^32 - 1 steps and milliseconds",
        poisoned(_endless),
        short=False,
    ),
    _fault("leases replayed", "old answers are sent again in place of new ones", _replay),
    _fault(
        "leases reordered",
        "of two answers the newer is sent before the older",
        _Reorder(),
        must_lose_control=False,
    ),
    _fault("leases duplicated", "every answer is sent three times", _duplicate, must_lose_control=False),
    _fault(
        "length NaN",
        "every length is the 8 bytes of a NaN",
        length(_field(2, 1) + struct.pack("<d", float("nan"))),
        must_lose_control=False,
    ),
    _fault("length negative", "every length is -1", length(_NUM_STEPS_VARINT + varint((1 << 64) - 1))),
    _fault(
        "length huge", "every length is 2^32 - 1", length(_NUM_STEPS_VARINT + varint(0xFFFFFFFF)), short=False
    ),
    _fault(
        "length not a candidate",
        f"every length is {UNKNOWN_LENGTH}",
        length(_NUM_STEPS_VARINT + varint(UNKNOWN_LENGTH)),
    ),
    _fault("answers that are no protobuf", "every answer is 41 random bytes", _garbage),
    _fault("oversized answers", f"every answer has {OVERSIZED_BYTES // 1024} KiB", _oversized, short=False),
)
