"""Views on models, as the session would hand them to a policy."""

from __future__ import annotations

from control_service.core.forecast import Forecaster
from control_service.core.models import EngineModels
from control_service.core.policy import ModelView
from control_service.core.types import EngineProfile
from tests.unit.control_service.factories import observation


def view(
    forecaster: Forecaster | None = None, observed_step_index: int = 0, may_explore: bool = True
) -> ModelView:
    return ModelView(forecaster, 1, observed_step_index, may_explore)


def ready_forecaster(profile: EngineProfile) -> Forecaster:
    """Models that have seen two lengths at two batch sizes."""
    models = EngineModels(profile)
    for index in range(1, 41):
        length = (0, profile.candidate_num_steps[-1])[index % 2]
        accepted = (min(length, 1),) * (1 + index % 4)
        models.observe(observation(index, length, accepted, duration_s=0.01 + 0.002 * length))
    models.refit()
    assert models.forecaster is not None
    return models.forecaster
