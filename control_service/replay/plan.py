"""What is to be run: cells, contenders and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from control_service.core.policies.make import make_policy
from control_service.core.policies.spelling import parse_policy
from control_service.core.types import EngineProfile
from control_service.core.validation import InvalidFieldError
from control_service.replay.errors import ReplayInputError
from control_service.replay.load import Load
from control_service.replay.loop import Controller, World, run
from control_service.replay.metrics import RunResult, judge
from control_service.replay.model_score import ModelErrors
from control_service.replay.oracles import Clairvoyant, FixedLength, PerfectModels
from control_service.replay.session_controller import SessionController
from control_service.replay.streams import Seeds, seeds_of

FIXED = "fixed"
CLAIRVOYANT = "clairvoyant"
PERFECT_MODELS = "perfect_models"
ORACLES = (CLAIRVOYANT, PERFECT_MODELS)
# An engine is sized for more than what happens to run.
MAX_RUNNING_REQUESTS_MIN = 256


@dataclass(frozen=True)
class Cell:
    """One comparison: everybody in the same world. traces: the names of the source's groups."""

    traces: tuple[str, ...]
    drafter: str
    world: World

    @property
    def trace(self) -> str:
        """As a person would write it."""
        return "+".join(self.traces)

    @property
    def load(self) -> Load:
        """The load of its world."""
        return self.world.load


class Unit(NamedTuple):
    """One run: a contender in a cell with a seed."""

    cell: int
    contender: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """Every contender in every cell with every seed. Every fixed length always runs: it is the yardstick."""

    cells: tuple[Cell, ...]
    candidates: tuple[int, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Fixed lengths, bounds, policies."""
        fixed = tuple(f"{FIXED}:{length}" for length in self.candidates)
        return (*fixed, *ORACLES, *self.policies)

    @property
    def units(self) -> list[Unit]:
        """All runs, cell by cell."""
        return [
            Unit(cell, contender, seed)
            for cell in range(len(self.cells))
            for contender in self.contenders
            for seed in self.seeds
        ]


def run_unit(plan: Plan, unit: Unit) -> RunResult:
    """Run one unit; the same unit gives the same result always and everywhere."""
    cell, seeds = plan.cells[unit.cell], seeds_of(unit.seed)
    controller = _controller(plan, cell, unit.contender, seeds)
    log = run(cell.world, controller, seeds)
    errors = (
        controller.score.errors()
        if isinstance(controller, SessionController)
        else ModelErrors(float("nan"), float("nan"))
    )
    return judge(log, cell.world, plan.candidates, errors)


def profile_of(cell: Cell, candidates: tuple[int, ...]) -> EngineProfile:
    """The profile that the cell's engine would introduce itself with: cold, eager, all unknown."""
    return EngineProfile(
        engine_id="replay",
        epoch=1,
        sglang_version="",
        plugin_version="",
        target_model=cell.trace,
        draft_model=cell.drafter,
        dtype="",
        accelerator="",
        tensor_parallel_size=1,
        data_parallel_size=1,
        pipeline_parallel_size=1,
        algorithm="NGRAM" if cell.drafter.lower() == "ngram" else "EAGLE3",
        topk=1,
        candidate_num_steps=candidates,
        graph_batch_sizes=(),
        max_running_requests=max(MAX_RUNNING_REQUESTS_MIN, cell.load.peak),
        launch_num_steps=candidates[-1],
    )


def check_policies(plan: Plan) -> None:
    """Raise ReplayInputError for a policy that nobody knows, before anything runs."""
    for text in plan.policies:
        try:
            make_policy(*parse_policy(text), profile_of(plan.cells[0], plan.candidates))
        except InvalidFieldError as error:
            raise ReplayInputError(f"replay: --policy {text}: {error}") from error


def _controller(plan: Plan, cell: Cell, contender: str, seeds: Seeds) -> Controller | SessionController:
    name, _, rest = contender.partition(":")
    if name == FIXED:
        return FixedLength(int(rest))
    if name == CLAIRVOYANT:
        return Clairvoyant(cell.world, plan.candidates)
    if name == PERFECT_MODELS:
        return PerfectModels(cell.world, plan.candidates)
    profile = profile_of(cell, plan.candidates)
    policy = make_policy(*parse_policy(contender), profile)
    return SessionController(profile, policy, seeds.telemetry)
