"""What a fault is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tests.chaos.stage import Stage

S = TypeVar("S", bound=Stage)


def nothing(_stage: Stage) -> None:
    """It heals by itself."""


@dataclass(frozen=True)
class Fault(Generic[S]):
    """One way to fail. ``inject`` begins it, ``heal`` ends it; both return when that is done."""

    name: str
    # What exactly is done, in a sentence.
    does: str
    stage: type[S]
    inject: Callable[[S], None]
    heal: Callable[[S], None] = nothing
    # Steps that it lasts at least.
    steps: int = 200
    # Whether steps must run without a lease meanwhile; otherwise they may, on a busy machine.
    must_lose_control: bool = True
    # Done if control has not come back within the limit after healing; says what that was.
    rescue: Callable[[S], str] | None = None
    # Whether records may be lost that nobody could count: their only witness was killed.
    kills_witness: bool = False
    # Whether it runs in `make test` too.
    short_form: bool = True
