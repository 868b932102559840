"""What a benchmark run leaves behind: raw records only, every statistic is derived from them in `report`."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.workload import LoadKind

FORMAT_VERSION = 5


class Record(BaseModel):
    """Base of everything saved: unknown or missing fields are errors."""

    model_config = ConfigDict(extra="forbid")


class RequestRecord(Record):
    """One request as its client saw it, as far as it lies in one window. Seconds since the load began."""

    prompt_index: int
    max_tokens: int
    client: int
    sent_s: float
    # Its first chunks belong to an earlier window.
    starts_before: bool = False
    # Arrival of every chunk that carried tokens, and how many it carried, by the server's count.
    chunk_s: list[float] = []
    chunk_tokens: list[int] = []
    complete: bool = False
    # Of the whole output; None unless it was completed here.
    output_digest: str | None = None
    # The server's own counts for this request; None if it sent none.
    verify_steps: int | None = None
    accepted_drafts: int | None = None


class Quantiles(Record):
    """A distribution measured elsewhere."""

    count: int
    p50: float
    p99: float
    max: float


class ControlDelta(Record):
    """What the control service counted for one engine during all turns of one cell."""

    policy: str
    mode: str
    steps: int
    switches: int
    committed_tokens: int
    accepted_tokens: int
    draft_tokens: int
    decisions: int
    steps_by_source: dict[str, int]
    fallbacks_by_reason: dict[str, int]
    steps_by_num_steps: dict[int, int]
    drops_by_cause: dict[str, int]
    # Of the engine's whole life so far, in microseconds.
    step_control_us: Quantiles
    decision_wait_us: Quantiles
    answer_us: Quantiles


class VariantRun(Record):
    """One turn of one variant. The window is the part that counts, in seconds since its load began."""

    variant: str
    group: int
    round: int
    window_start_s: float
    window_end_s: float
    # Cores that processes other than ours kept busy during the run; None if that was not watched.
    foreign_cores: float | None = None
    requests: list[RequestRecord]
    # Of all turns of the cell together, with the last of them.
    control: ControlDelta | None = None


class Step(Record):
    """A decode step, from its launch to the next launch; the tokens that each request's client gets of it."""

    num_steps: int
    seconds: float
    tokens: dict[int, float]

    @property
    def tokens_total(self) -> float:
        return sum(self.tokens.values())


class Slice(Record):
    """Steps of one variant in a row. In a sweep of a server each variant that it plays has one slice."""

    # The variant that the server was launched for.
    server: str
    start: int
    sweep: int
    variant: str
    steps: list[Step]


class Cell(Record):
    """One model, algorithm, kind of load and number of clients, and what was measured of it.

    runs: by the clients, of every variant that has a server of its own. slices: by the schedulers, of all;
    none where every variant has a server of its own. behind: fixed lengths that had no turns any more from
    some round on, since others were clearly better.
    """

    model: str
    algorithm: str
    load: LoadKind
    clients: int
    runs: list[VariantRun] = []
    slices: list[Slice] = []
    behind: list[str] = []


class Environment(Record):
    """Where and on what the numbers were measured."""

    started_at: str
    cpu_model: str
    cores: int
    memory_gib: float
    accelerator: str
    python: str
    versions: dict[str, str]
    git_commit: str


class BenchResult(Record):
    """A whole benchmark: how it was asked for, where it ran, and every record."""

    format_version: int = FORMAT_VERSION
    environment: Environment
    settings: dict[str, str]
    cells: list[Cell] = []

    def save(self, path: Path) -> None:
        """Write to `path` in one step: a reader, or a crash, never finds half a file."""
        part = path.with_name(path.name + ".part")
        part.write_text(self.model_dump_json(), encoding="utf-8")
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> BenchResult:
        """Read what `save` wrote.

        Raises:
            pydantic.ValidationError: the file is not of this format.
        """
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
