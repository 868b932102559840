"""How many requests run, and when."""

from __future__ import annotations

from typing import NamedTuple

CONCURRENCY_MAX = 4_096
SECONDS_MAX = 86_400.0


class Phase(NamedTuple):
    """For a while, `concurrency` requests of one group of the source."""

    concurrency: int
    seconds: float
    group: int


class Load:
    """Phases one after the other, from time 0.

    drain: where the concurrency falls, requests finish and are not replaced; else the newest leave at
    once. Draining is what a server sees, but it makes phases incomparable: a slower policy carries
    more requests into the next phase, whose larger batch then commits more.
    """

    def __init__(self, phases: tuple[Phase, ...], *, drain: bool = False) -> None:
        self.phases = phases
        self.drain = drain
        starts_s = [0.0]
        for phase in phases:
            starts_s.append(starts_s[-1] + phase.seconds)
        self.starts_s = tuple(starts_s[:-1])
        self.end_s = starts_s[-1]
        self.peak = max(phase.concurrency for phase in phases)

    def index_at(self, now_s: float, hint: int = 0) -> int:
        """The phase at a time, searched from phase `hint` on."""
        while hint + 1 < len(self.starts_s) and now_s >= self.starts_s[hint + 1]:
            hint += 1
        return hint

    @property
    def label(self) -> str:
        """As a person would write it."""
        if len(self.phases) == 1:
            return str(self.phases[0].concurrency)
        return ",".join(f"{phase.concurrency}:{phase.seconds:g}" for phase in self.phases)
