"""A length for each range of batch sizes, as an operator wrote it down.

The rule of vLLM's dynamic speculative decoding (`num_speculative_tokens_per_batch_size`
of its speculative config: inclusive ranges [first size, last size, length]). There the
first range must begin at batch size 1, a gap between two ranges takes the length of the
range before it, and sizes beyond the last range keep its length. So the first sizes of
the ranges say everything, and only they are given here. vLLM clamps a length above the
largest it was launched with; here every length must be a candidate.
"""

from __future__ import annotations

from bisect import bisect_right

from control_service.core.policy import ModelView, forecast_predictions, merge_tiers
from control_service.core.types import Choice, StepObservation, StepQuery


class SchedulePolicy:
    """Looks the batch size up.

    table: (first batch size, length) pairs, ascending from batch size 1; the last holds
    for all larger batches.
    """

    name = "schedule"

    def __init__(self, table: tuple[tuple[int, int], ...], max_running_requests: int) -> None:
        self._sizes = [size for size, _ in table]
        self._lengths = [length for _, length in table]
        lasts = [*(size - 1 for size in self._sizes[1:]), max_running_requests]
        reachable = [place for place, size in enumerate(self._sizes) if size <= max_running_requests]
        self._tiers = merge_tiers(
            [(min(lasts[place], max_running_requests), self._lengths[place]) for place in reachable]
        )

    def choose(self, query: StepQuery, view: ModelView) -> Choice:
        """The length of the range that holds the batch."""
        length = self._lengths[bisect_right(self._sizes, query.batch_size) - 1]
        return Choice(length, "schedule", self._tiers, forecast_predictions(query, view))

    def observe(self, step: StepObservation, view: ModelView) -> None:
        """Nothing to learn."""
