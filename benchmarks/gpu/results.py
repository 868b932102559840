"""What a run on a GPU leaves behind."""

from __future__ import annotations

from pydantic import Field

from benchmarks.gpu.crediting import Crediting
from benchmarks.gpu.loss import KillResult
from benchmarks.gpu.step_grid import FitError, GridCell
from benchmarks.results import Cell, Environment, Record
from control_service.replay.step_times import StepTimeFile

FORMAT_VERSION = 1


class GridResult(Record):
    """The model made of the step times, and how far that and the service's own fit are from them."""

    model: StepTimeFile
    model_error: FitError
    online_error: FitError


class GpuResult(Record):
    """Everything; a stage that did not run is None or empty."""

    format_version: int = FORMAT_VERSION
    environment: Environment
    settings: dict[str, str]
    grid_cells: list[GridCell] = Field(default_factory=list)
    grid: GridResult | None = None
    crediting: Crediting | None = None
    kill: KillResult | None = None
    closed_loop: list[Cell] = Field(default_factory=list)
