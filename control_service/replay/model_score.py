"""How well the session's models knew each step before they learned it."""

from __future__ import annotations

import math
from statistics import median
from typing import NamedTuple

import numpy as np

from control_service.core.acceptance import AcceptanceTable
from control_service.core.models import EngineModels
from control_service.core.types import EngineProfile, StepObservation


class ModelErrors(NamedTuple):
    """Of one run; NaN where nothing could be judged.

    step_time: median |predicted / observed - 1| over steps priced before they were learned.
    acceptance: |predicted - observed| conditional acceptance of a position, both averaged over its
    trials, weighted over positions by trials.
    """

    step_time: float
    acceptance: float


class ModelScore:
    """Compares the last refit's predictions with each step as it arrives.

    Steps whose length has just changed are left out of the time error, and first steps after a
    prefill out of acceptance, because the models leave them out too.
    """

    def __init__(self, profile: EngineProfile) -> None:
        # By position, and last the first position of steps after a full accept, known apart.
        places = profile.candidate_num_steps[-1] + 1
        self._index = {length: index for index, length in enumerate(profile.candidate_num_steps)}
        self._time_errors: list[float] = []
        self._generation = -1
        self._table: AcceptanceTable | None = None
        self._trials = np.zeros(places)
        self._accepted = np.zeros(places)
        self._expected = np.zeros(places)

    def expect(self, models: EngineModels, step: StepObservation) -> None:
        """Judge one step that the models have not seen yet."""
        forecaster = models.forecaster
        if forecaster is None:
            return
        if not step.changed_length:
            predicted_s = forecaster.step_seconds(
                self._index[step.num_steps], step.batch_size, step.context_tokens
            )
            self._time_errors.append(abs(predicted_s / step.duration_s - 1.0))
        if step.num_steps:
            if self._table is None or self._generation != models.generation:
                self._generation = models.generation
                self._table = models.acceptance.table()
            self._count(step, self._table)

    def errors(self) -> ModelErrors:
        """Over everything judged."""
        seen = self._trials > 0
        acceptance = math.nan
        if seen.any():
            gap = np.abs(self._expected[seen] - self._accepted[seen])
            acceptance = float(gap.sum() / self._trials[seen].sum())
        return ModelErrors(median(self._time_errors) if self._time_errors else math.nan, acceptance)

    def _count(self, step: StepObservation, table: AcceptanceTable) -> None:
        inside = step.after_full_accept or (False,) * step.batch_size
        known = zip(step.accepted_drafts, step.first_step, inside, strict=True)
        counts = [(count, full) for count, first, full in known if not first]
        for full, place in ((False, 0), (True, -1)):
            started = [count for count, after_full in counts if after_full is full]
            if started:
                rate = table.first_rate(step.num_steps, after_full_accept=full)
                self._add(place, rate, len(started), sum(count > 0 for count in started))
        for position in range(1, step.num_steps):
            alive = sum(count >= position for count, _ in counts)
            if not alive:
                return
            rate = float(table.rate[position])
            self._add(position, rate, alive, sum(count > position for count, _ in counts))

    def _add(self, place: int, rate: float, trials: int, accepted: int) -> None:
        self._trials[place] += trials
        self._accepted[place] += accepted
        self._expected[place] += trials * rate
