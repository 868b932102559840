"""What a fault did to an engine: numbers from its steps. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.spread import percentile
from tests.chaos.steps import Step
from turbospec.v1 import telemetry as names


@dataclass(frozen=True)
class Cost:
    """Microseconds that control took on the step thread, waiting included, over some steps."""

    steps: int
    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Cost:
        costs = [step.control_us for step in steps]
        return cls(len(costs), percentile(costs, 50) or 0.0, percentile(costs, 99) or 0.0)


@dataclass(frozen=True)
class Ledger:
    """Whether every step is accounted for, twice: by where its length came from, and by its record."""

    steps: int
    # "lease", "fallback overdue", ...
    by_origin: dict[str, int]
    # Records that arrived, and those that the engine said were dropped.
    received: int
    dropped: int

    @property
    def unaccounted(self) -> int:
        """Steps of which there is neither a record nor a word that it was dropped."""
        return self.steps - self.received - self.dropped

    @property
    def adds_up(self) -> bool:
        return sum(self.by_origin.values()) == self.steps


@dataclass(frozen=True)
class Outcome:
    """One fault, one engine. Steps are counted from 1; None: it did not happen."""

    fault: str
    engine: str
    quiet: Cost
    during: Cost
    until_loss_steps: int | None
    until_control_steps: int | None
    until_control_ms: float | None
    # What had to be done beyond the healing itself; empty: nothing.
    rescue: str
    ledger: Ledger
    requests_lost: int
    # What is wrong with the outputs (SGLang) or the bookkeeping (stepped engine); empty: nothing.
    differences: list[str]

    @property
    def added_p50_us(self) -> float:
        return self.during.p50_us - self.quiet.p50_us

    @property
    def added_p99_us(self) -> float:
        return self.during.p99_us - self.quiet.p99_us

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "added_p50_us": self.added_p50_us,
            "added_p99_us": self.added_p99_us,
            "unaccounted": self.ledger.unaccounted,
        }


def origins(steps: Sequence[Step]) -> dict[str, int]:
    """Steps by where their length came from: those with a known source, and a reason if they fell back."""
    counted = Counter(
        step.origin for step in steps if step.source in names.SOURCES and bool(step.reason) == step.fell_back
    )
    return dict(sorted(counted.items()))


def differences(
    noted: Sequence[Step], told: Sequence[Step], allowed: frozenset[int], *, what: str
) -> list[str]:
    """What does not fit together: steps as the engine ran them, as telemetry tells them, lengths allowed."""
    found = []
    indices = [step.number for step in noted]
    if indices and indices != list(range(indices[0], indices[0] + len(indices))):
        found.append(f"{what}: step numbers have gaps")
    by_index = {step.number: step for step in noted}
    for step in told:
        own = by_index.get(step.number)
        if own is not None and (own.num_steps, own.accepted, own.origin) != (
            step.num_steps,
            step.accepted,
            step.origin,
        ):
            found.append(f"{what}: step {step.number} was {own}, telemetry says {step}")
    for step in noted:
        if step.num_steps not in allowed:
            found.append(
                f"{what}: step {step.number} ran length {step.num_steps}, allowed were {sorted(allowed)}"
            )
        if step.fell_back and step.num_steps:
            found.append(f"{what}: step {step.number} fell back to length {step.num_steps}")
    return found
