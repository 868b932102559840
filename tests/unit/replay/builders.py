"""Small worlds for tests of replay."""

from __future__ import annotations

from control_service.replay.load import Load, Phase
from control_service.replay.loop import World
from control_service.replay.plan import Cell
from control_service.replay.sources import AcceptanceSource, RequestTrace, TraceSource
from control_service.replay.step_times import (
    DraftTerms,
    LinearStepTimes,
    NoiseTerms,
    StepTimeFile,
    VerifyTerms,
)

CANDIDATES = (0, 1, 3)


def step_time_file(**changes: object) -> StepTimeFile:
    """10 ms a step, 1 ms a token verified, 1 us a token of context; a draft is 2 ms a token."""
    fields: dict[str, object] = {
        "verify": VerifyTerms(context_s_per_token=1e-6, token_s=1e-3, fixed_s=10e-3),
        "draft": {"eagle3": DraftTerms(fixed_s=2e-3)},
    }
    return StepTimeFile.model_validate(fields | changes)


def trace_source(*entries: tuple[int, ...], prompt_tokens: int = 100) -> TraceSource:
    """One trace; a request for each tuple of entries."""
    return TraceSource((tuple(RequestTrace(prompt_tokens, each) for each in entries),))


def world(
    source: AcceptanceSource,
    *phases: tuple[int, float],
    noise: NoiseTerms | None = None,
    file: StepTimeFile | None = None,
    drain: bool = False,
) -> World:
    """A world of (concurrency, seconds) phases, all of group 0."""
    load = Load(tuple(Phase(concurrency, seconds, 0) for concurrency, seconds in phases), drain=drain)
    return World(source, LinearStepTimes(file or step_time_file(), "eagle3"), noise or NoiseTerms(), load)


def cell(where: World) -> Cell:
    """A cell of one trace."""
    return Cell(("made",), "eagle3", where)
