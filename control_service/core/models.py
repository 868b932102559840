"""What is learned about one kind of engine: acceptance and step times, refitted together."""

from __future__ import annotations

from itertools import compress

from control_service.core.acceptance import AcceptanceModel
from control_service.core.buckets import BatchBuckets
from control_service.core.forecast import Forecaster
from control_service.core.step_time import StepTimeModel
from control_service.core.types import EngineProfile, StepObservation


class EngineModels:
    """Both models of one profile. Outlives an epoch, so that a restart starts warm."""

    def __init__(self, profile: EngineProfile) -> None:
        length_max = profile.candidate_num_steps[-1]
        self.lengths = profile.candidate_num_steps
        self.buckets = BatchBuckets(profile.graph_batch_sizes, profile.max_running_requests)
        self.acceptance = AcceptanceModel(length_max)
        # A first step after prefill accepts almost nothing; it is known apart and used nowhere.
        self.first_step_acceptance = AcceptanceModel(length_max)
        self.step_time = StepTimeModel(self.lengths, self.buckets)
        self.forecaster: Forecaster | None = None
        self.generation = 1
        self._changes_known = 0

    @property
    def acceptance_has_changed(self) -> bool:
        """Whether acceptance has moved beyond chance since the last refit."""
        return self.acceptance.changes_total != self._changes_known

    def observe(self, step: StepObservation) -> float | None:
        """Learn one step; returns the relative error of its predicted time, if one was predicted."""
        accepted, inside = step.accepted_drafts, step.after_full_accept
        if True in step.first_step:
            later = [not first for first in step.first_step]
            self.first_step_acceptance.observe(step.num_steps, tuple(compress(accepted, step.first_step)))
            accepted, inside = tuple(compress(accepted, later)), tuple(compress(inside, later))
        self.acceptance.observe(step.num_steps, accepted, inside)
        return self.step_time.observe(step)

    def refit(self) -> None:
        """Freeze what is known now; decisions use it until the next refit."""
        self.step_time.refit()
        self.generation += 1
        self._changes_known = self.acceptance.changes_total
        fit = self.step_time.fit
        self.forecaster = (
            Forecaster(
                self.lengths, self.buckets, self.acceptance.table(), fit, self.acceptance.changes_total
            )
            if fit is not None
            else None
        )
