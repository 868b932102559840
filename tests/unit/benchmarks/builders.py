"""Small records for the tests of statistics and reports."""

from collections.abc import Sequence

from benchmarks.results import (
    BenchResult,
    Cell,
    ControlDelta,
    Environment,
    Quantiles,
    RequestRecord,
    Slice,
    VariantRun,
)
from benchmarks.workload import LoadKind


def request(
    chunks: list[tuple[float, int]],
    *,
    sent_s: float = 0.0,
    index: int = 0,
    digest: str | None = None,
    verify_steps: int | None = None,
    accepted_drafts: int | None = None,
) -> RequestRecord:
    return RequestRecord(
        prompt_index=index,
        max_tokens=32,
        client=0,
        sent_s=sent_s,
        chunk_s=[at_s for at_s, _ in chunks],
        chunk_tokens=[tokens for _, tokens in chunks],
        complete=digest is not None,
        output_digest=digest,
        verify_steps=verify_steps,
        accepted_drafts=accepted_drafts,
    )


def run(
    variant: str,
    tokens: int,
    *,
    number: int = 0,
    group: int = 0,
    digest: str | None = None,
    control: ControlDelta | None = None,
) -> VariantRun:
    """A run of a window of one second in which one chunk brought `tokens`."""
    return VariantRun(
        variant=variant,
        group=group,
        round=number,
        window_start_s=0.0,
        window_end_s=1.0,
        requests=[request([(0.5, tokens)], index=number, digest=digest)],
        control=control,
    )


def cell(
    *runs: VariantRun,
    model: str = "knob:0.02",
    load: LoadKind = LoadKind.KNOB,
    slices: Sequence[Slice] = (),
) -> Cell:
    return Cell(
        model=model, algorithm="STANDALONE", load=load, clients=1, runs=list(runs), slices=list(slices)
    )


def control(steps: int, **changes: object) -> ControlDelta:
    quantiles = Quantiles(count=steps, p50=10.0, p99=20.0, max=30.0)
    fields: dict[str, object] = {
        "policy": "goodput",
        "mode": "enforce",
        "steps": steps,
        "switches": 0,
        "committed_tokens": 0,
        "accepted_tokens": 0,
        "draft_tokens": 0,
        "decisions": steps,
        "steps_by_source": {},
        "fallbacks_by_reason": {},
        "steps_by_num_steps": {},
        "drops_by_cause": {},
        "step_control_us": quantiles,
        "decision_wait_us": quantiles,
        "answer_us": quantiles,
    }
    return ControlDelta.model_validate(fields | changes)


def result(*cells: Cell) -> BenchResult:
    environment = Environment(
        started_at="2026-11-21T12:00:00+00:00",
        cpu_model="a processor",
        cores=2,
        memory_gib=24.0,
        accelerator="cpu",
        python="3.11",
        versions={"sglang": "0.5.23"},
        git_commit="abc",
    )
    return BenchResult(environment=environment, settings={"rounds": "5"}, cells=list(cells))
