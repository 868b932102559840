"""Step time as a plain linear function, fitted by least squares."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from control_service.core.types import StepObservation

FloatArray = npt.NDArray[np.float64]

FEATURES = ("constant", "request", "batched_token", "kv_token", "speculating", "draft_step")
MIN_SAMPLES = 8
MIN_LENGTHS = 2
# Directions of the data this much weaker than the strongest are noise: left at zero.
RCOND = 1e-9


class LinearStepTime:
    """seconds = sum of coefficient * feature, over batch size B, length k and context C.

    Features: 1, B, B (k + 1) tokens through the target, C tokens of KV cache, and for
    k > 0 one constant and k passes of the drafter. Keeps sums of products only, so its
    size does not grow; all steps weigh the same, as in an offline profile.
    """

    def __init__(self) -> None:
        self._gram = np.zeros((len(FEATURES), len(FEATURES)))
        self._target = np.zeros(len(FEATURES))
        self._samples = 0
        self._lengths: set[int] = set()
        self._coefficients: FloatArray | None = None

    @property
    def ready(self) -> bool:
        """Whether there is a fit."""
        return self._coefficients is not None

    def observe(self, step: StepObservation) -> None:
        """Take one step in; `fit` makes use of it."""
        row = _features(step.batch_size, step.context_tokens, step.num_steps)
        self._gram += np.outer(row, row)
        self._target += row * step.duration_s
        self._samples += 1
        self._lengths.add(step.num_steps)

    def fit(self) -> None:
        """Least squares of all steps so far; of many solutions, the one of least scaled norm."""
        if self._samples < MIN_SAMPLES or len(self._lengths) < MIN_LENGTHS:
            return
        scale = np.sqrt(np.maximum(np.diag(self._gram), 1e-300))
        scaled = self._gram / np.outer(scale, scale)
        values, vectors = np.linalg.eigh(scaled)
        kept = values > RCOND * values[-1]
        projected = (vectors[:, kept].T @ (self._target / scale)) / values[kept]
        self._coefficients = np.asarray((vectors[:, kept] @ projected) / scale)

    def seconds(self, batch_size: int, context_tokens: int, num_steps: int) -> float:
        """Predicted seconds; may be negative, as a linear fit may. Only while `ready`."""
        assert self._coefficients is not None
        return float(_features(batch_size, context_tokens, num_steps) @ self._coefficients)


def _features(batch_size: int, context_tokens: int, num_steps: int) -> FloatArray:
    return np.array(
        [
            1.0,
            batch_size,
            batch_size * (num_steps + 1),
            context_tokens,
            num_steps > 0,
            num_steps,
        ],
        dtype=np.float64,
    )
