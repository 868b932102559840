"""What lengths that never ran are believed to cost."""

from __future__ import annotations

import numpy as np

from control_service.core.forecast import BatchForecast
from control_service.core.models import EngineModels
from tests.unit.control_service.factories import observation, profile

BATCH_SIZE = 4


def forecast(seconds_by_length: dict[int, float]) -> BatchForecast:
    """For a batch whose steps were served at these lengths, all drafts rejected."""
    models = EngineModels(profile())
    for index in range(1, 41):
        length = list(seconds_by_length)[index // 4 % len(seconds_by_length)]
        step = observation(index, length, (0,) * BATCH_SIZE, duration_s=seconds_by_length[length])
        models.observe(step)
    models.refit()
    assert models.forecaster is not None
    return models.forecaster.batch(BATCH_SIZE, step.context_tokens)


def test_a_length_that_never_ran_is_not_hoped_to_be_cheaper_a_draft_than_one_that_did() -> None:
    """Where a draft costs as much as a step, no length pays even though every draft were accepted."""
    seen = forecast({0: 0.01, 1: 0.02})
    hope = seen.most_gains(0, 0.0)
    assert hope.max() < 0.02
    # By the fit alone, which prefers constants, one would.
    assert (np.log1p(seen.lengths) - np.log(seen.seconds / seen.seconds[0])).max() > 0.1


def test_a_length_that_ran_is_hoped_for_at_its_own_price() -> None:
    seen = forecast({0: 0.01, 1: 0.02, 3: 0.022})
    hope = seen.most_gains(0, 0.0)
    assert hope[seen.lengths.index(3)] > np.log(4 / 2.2) - 0.1
