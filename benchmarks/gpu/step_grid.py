"""From measured steps to a step-time model that `turbospec replay` reads. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from pydantic import Field
from scipy.optimize import nnls

from benchmarks.results import Record
from control_service.replay.step_times import (
    DraftTerms,
    LinearStepTimes,
    NoiseTerms,
    StepTimeFile,
    VerifyTerms,
)

DRAFTER: Final = "eagle"
STEPS_MIN: Final = 8
# A step that takes longer than so many medians of its cell is an outlier, not scatter.
OUTLIER_FACTOR: Final = 1.5
TERMS: Final = 6


class GridCell(Record):
    """Settled steps of one length, batch size and prompt length."""

    num_steps: int
    batch_size: int
    prompt_tokens: int
    # By step: sum of the requests' sequence lengths, and seconds.
    context_tokens: list[int] = Field(default_factory=list)
    seconds: list[float] = Field(default_factory=list)

    @property
    def median_context_tokens(self) -> float:
        return statistics.median(self.context_tokens)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


class FitError(Record):
    """How far a model is from the medians of the grid, as ratios."""

    median: float
    highest: float
    cells: int


def fit_grid(cells: Sequence[GridCell], description: str) -> StepTimeFile:
    """Least squares of relative errors over the medians of all cells, no term below 0.

    Raises:
        ValueError: fewer usable cells than the model has terms.
    """
    usable = [cell for cell in cells if len(cell.seconds) >= STEPS_MIN]
    if len(usable) < TERMS:
        raise ValueError(f"cells={len(usable)} with {STEPS_MIN} steps or more: at least {TERMS} are needed")
    rows = np.array([_terms(cell) for cell in usable])
    seconds = np.array([cell.median_s for cell in usable])
    # Scaled by columns, so that tokens by the thousand and ones weigh the same in the solver.
    scale = np.maximum(rows.max(axis=0), 1e-12)
    found, _ = nnls(rows / seconds[:, None] / scale, np.ones(len(usable)))
    context_s, token_s, fixed_s, draft_context_s, draft_token_s, draft_fixed_s = (found / scale).tolist()
    return StepTimeFile(
        description=description,
        verify=VerifyTerms(context_s_per_token=context_s, token_s=token_s, fixed_s=fixed_s),
        draft={
            DRAFTER: DraftTerms(
                context_s_per_token=draft_context_s, token_s=draft_token_s, fixed_s=draft_fixed_s
            )
        },
        noise=noise_of(usable),
    )


def noise_of(cells: Sequence[GridCell]) -> NoiseTerms:
    """Scatter of steps around the medians of their cells, outliers apart."""
    ratios = [second / cell.median_s for cell in cells for second in cell.seconds]
    usual = [math.log(ratio) for ratio in ratios if ratio <= OUTLIER_FACTOR]
    slow = [ratio for ratio in ratios if ratio > OUTLIER_FACTOR]
    return NoiseTerms(
        lognormal_sigma=min(1.0, statistics.pstdev(usual)),
        outlier_share=min(0.5, len(slow) / len(ratios)),
        outlier_factor=min(100.0, statistics.median(slow)) if slow else OUTLIER_FACTOR,
    )


def fit_error(model: StepTimeFile, cells: Sequence[GridCell]) -> FitError:
    """Of the written model."""
    times = LinearStepTimes(model, DRAFTER)
    return error_against(
        cells, lambda cell: times.seconds(cell.batch_size, cell.num_steps, cell.median_context_tokens)
    )


def error_against(cells: Sequence[GridCell], predicted_s: Callable[[GridCell], float | None]) -> FitError:
    """Of anything that predicts seconds for a cell; cells it answers None for are left out."""
    errors = [
        abs(prediction / cell.median_s - 1.0)
        for cell in cells
        if len(cell.seconds) >= STEPS_MIN and (prediction := predicted_s(cell)) is not None
    ]
    if not errors:
        raise ValueError("cells=0 that the model predicts: at least 1 is needed")
    return FitError(median=statistics.median(errors), highest=max(errors), cells=len(errors))


def _terms(cell: GridCell) -> tuple[float, ...]:
    size, length, context = cell.batch_size, cell.num_steps, cell.median_context_tokens
    return (context, size * (length + 1), 1.0, length * context, length * size, float(length))
