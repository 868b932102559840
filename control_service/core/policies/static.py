"""One length, whatever happens."""

from __future__ import annotations

from control_service.core.policy import ModelView, forecast_predictions
from control_service.core.types import Choice, StepObservation, StepQuery, Tier


class StaticPolicy:
    """Holds a length; what `--speculative-num-steps` does."""

    name = "static"

    def __init__(self, num_steps: int, max_running_requests: int) -> None:
        self.num_steps = num_steps
        self._tiers = (Tier(max_running_requests, num_steps),)

    def choose(self, query: StepQuery, view: ModelView) -> Choice:
        """Always the same; predictions come along where the models are ready."""
        return Choice(self.num_steps, "static", self._tiers, forecast_predictions(query, view))

    def observe(self, step: StepObservation, view: ModelView) -> None:
        """Nothing to learn."""
