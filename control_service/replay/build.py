"""From the inputs of the command to a plan."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from control_service.replay.errors import ReplayInputError, input_error
from control_service.replay.files import AcceptanceTrace
from control_service.replay.load import Load, Phase
from control_service.replay.loop import World
from control_service.replay.plan import Cell, Plan, check_policies
from control_service.replay.recorded import DRAFTER, RecordedEngine
from control_service.replay.sources import (
    AcceptanceSource,
    AcceptanceSpan,
    MutedSource,
    SyntheticSource,
    TraceSource,
)
from control_service.replay.step_times import DriftTerms, LinearStepTimes, NoiseTerms, StepTimeFile

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Inputs:
    """What the command was given, each part already checked by itself."""

    step_times: StepTimeFile | None
    recorded: RecordedEngine | None
    traces: tuple[AcceptanceTrace, ...]
    acceptance: tuple[AcceptanceSpan, ...] | None
    drafters: tuple[str, ...]
    concurrencies: tuple[int, ...]
    phases: tuple[tuple[int, float], ...] | None
    drain: bool
    mute_s: float
    seconds: float
    noise: float | None
    outliers: float | None
    drift: DriftTerms | None = None


def build_plan(
    inputs: Inputs, *, candidates: tuple[int, ...], policies: tuple[str, ...], seeds: tuple[int, ...]
) -> Plan:
    """Cells in the order trace, drafter, concurrency. Raises ReplayInputError."""
    given = bool(inputs.traces) + (inputs.acceptance is not None) + (inputs.recorded is not None)
    if given != 1:
        raise ReplayInputError(
            "replay: --trace, --acceptance, --recorded: exactly one of the three must be given"
        )
    cells = _made_cells(inputs) if inputs.recorded is None else _recorded_cells(inputs, inputs.recorded)
    plan = Plan(tuple(cells), candidates, policies, seeds)
    check_policies(plan)
    return plan


def _made_cells(inputs: Inputs) -> list[Cell]:
    file = inputs.step_times
    if file is None:
        raise ReplayInputError("replay: --step-time: missing; --trace and --acceptance need it")
    cells = []
    for traces in _groups(inputs):
        for drafter in _drafters(inputs, file, traces):
            source = _source(inputs, traces, drafter)
            times = LinearStepTimes(file, drafter)
            for load in _loads(inputs, len(source.groups)):
                world = World(source, times, _noise(inputs, file.noise), load)
                cells.append(Cell(tuple(trace.name for trace in traces) or (SYNTHETIC,), drafter, world))
    return cells


def _recorded_cells(inputs: Inputs, engine: RecordedEngine) -> list[Cell]:
    if inputs.step_times is not None:
        raise ReplayInputError("replay: --step-time: not allowed with --recorded, which has its own")
    noise = _noise(inputs, engine.noise)
    return [
        Cell((engine.name,), DRAFTER, World(engine.source, engine.times, noise, load))
        for load in _loads(inputs, 1)
    ]


def _groups(inputs: Inputs) -> list[tuple[AcceptanceTrace, ...]]:
    """Traces that share a cell: each by itself, all together where the load has phases."""
    if inputs.phases is not None or not inputs.traces:
        return [inputs.traces]
    return [(trace,) for trace in inputs.traces]


def _drafters(inputs: Inputs, file: StepTimeFile, traces: tuple[AcceptanceTrace, ...]) -> tuple[str, ...]:
    known = list(file.draft)
    for trace in traces:
        known = [name for name in known if name in trace.by_drafter]
    wanted = inputs.drafters or tuple(known)
    for name in wanted:
        if name not in known:
            allowed = f"one that the step-time model and the traces know: {', '.join(known)}"
            raise input_error("replay", "--drafter", name, allowed)
    if not wanted:
        raise ReplayInputError("replay: --drafter: the step-time model and the traces have none in common")
    return wanted


def _source(inputs: Inputs, traces: tuple[AcceptanceTrace, ...], drafter: str) -> AcceptanceSource:
    if inputs.acceptance is not None:
        changes_s = tuple(accumulate(span.seconds for span in inputs.acceptance[:-1]))
        return SyntheticSource(inputs.acceptance, watched_s=changes_s)
    source = TraceSource(tuple(trace.by_drafter[drafter] for trace in traces))
    return MutedSource(source, inputs.mute_s) if inputs.mute_s else source


def _loads(inputs: Inputs, groups: int) -> list[Load]:
    if inputs.phases is not None:
        phases = tuple(
            Phase(concurrency, seconds, place % groups)
            for place, (concurrency, seconds) in enumerate(inputs.phases)
        )
        return [Load(phases, drain=inputs.drain)]
    return [Load((Phase(concurrency, inputs.seconds, 0),)) for concurrency in inputs.concurrencies]


def _noise(inputs: Inputs, noise: NoiseTerms) -> NoiseTerms:
    changes: dict[str, float | DriftTerms] = {}
    if inputs.noise is not None:
        changes["lognormal_sigma"] = inputs.noise
    if inputs.outliers is not None:
        changes["outlier_share"] = inputs.outliers
    if inputs.drift is not None:
        changes["drift"] = inputs.drift
    return noise.model_copy(update=changes)
