"""What the models of one engine believe, with their uncertainty, as JSON.

Errors are standard errors in the unit of their value.
"""

from __future__ import annotations

import numpy as np

from control_service.core.models import EngineModels
from control_service.core.session import EngineSession
from control_service.server.web.values import Json, number

# A batch beyond every one that was seen is shown one bucket far.
BUCKETS_BEYOND = 1
BUCKETS_MAX = 64


def acceptance_view(models: EngineModels) -> list[Json]:
    """Conditional acceptance by position; the first position twice, see `PositionEstimate`."""
    return [
        {
            "position": estimate.position,
            "after_full_accept": estimate.after_full_accept,
            "probability": number(estimate.probability),
            "standard_error": number(estimate.standard_error),
            "observed": number(estimate.accepted + estimate.rejected),
        }
        for estimate in models.acceptance.positions()
    ]


def step_time_view(session: EngineSession) -> dict[str, Json]:
    """Milliseconds of a step by batch size, one curve a length, at the newest step's context a request."""
    models, newest = session.models, session.newest_step
    forecaster = models.forecaster
    if forecaster is None or newest is None:
        return {"ready": False, "not_ready_reason": models.step_time.not_ready_reason, "curves": []}
    fit = forecaster.fit
    seen = np.flatnonzero((fit.weight > 0.0).any(axis=1))
    first, last = int(seen[0]), min(int(seen[-1]) + BUCKETS_BEYOND, len(models.buckets.sizes) - 1)
    buckets = range(max(first, last - BUCKETS_MAX + 1), last + 1)
    sizes = [models.buckets.sizes[bucket] for bucket in buckets]
    context_per_request = newest.context_tokens / newest.batch_size
    seconds = np.stack(
        [
            fit.seconds(bucket, size, context_per_request * size)
            for bucket, size in zip(buckets, sizes, strict=True)
        ]
    )
    milliseconds = seconds * 1e3
    errors = milliseconds * np.sqrt(fit.variance[list(buckets)])
    weights = fit.weight[list(buckets)]
    return {
        "ready": True,
        "not_ready_reason": "",
        "context_tokens_per_request": number(context_per_request),
        "batch_sizes": list(sizes),
        "curves": [
            {
                "num_steps": length,
                "step_ms": [number(value) for value in milliseconds[:, place].tolist()],
                "standard_error_ms": [number(value) for value in errors[:, place].tolist()],
                "samples": [number(value) for value in weights[:, place].tolist()],
            }
            for place, length in enumerate(forecaster.lengths)
        ],
    }
