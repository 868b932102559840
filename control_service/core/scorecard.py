"""What was forecast against what came true, as sums: a ratio over any window says how good forecasts are."""

from __future__ import annotations

from itertools import compress

from control_service.core.forecast import Forecaster
from control_service.core.guard import DURATION_CLIP_RATIO
from control_service.core.types import Decision, StepObservation


class Scorecard:
    """Sums of one engine epoch in tokens; only its session writes them.

    Regret, of steps that ran under a decision with a forecast for each length: with G the forecast goodput,
    k the length that ran and t(k) its forecast seconds, `best_tokens` grows by max G * t(k) and
    `regret_tokens` by (max G - G(k)) * t(k). Probes, held lengths and shadow mode all show up in it.

    Calibration, of drafting steps that kept the length of the step before: accepted drafts as forecast just
    before the step was learned, and as they came. Requests in their first step are left out.

    Payoff, of all drafting steps: tokens committed, and tokens that length 0 was forecast to commit in the
    same time. A step far slower than forecast (a prefill in between) is counted as twice as slow, no more.
    """

    def __init__(self) -> None:
        self.best_tokens = 0.0
        self.regret_tokens = 0.0
        self.predicted_accepted_tokens = 0.0
        self.realised_accepted_tokens = 0
        self.speculated_tokens = 0
        self.tokens_without_speculation = 0.0

    def observe(
        self, step: StepObservation, forecaster: Forecaster | None, decision: Decision | None
    ) -> None:
        """One served step; `forecaster` as it was before the step, `decision` as the step names it."""
        if decision is not None:
            self._add_regret(step, decision)
        if forecaster is None or step.num_steps == 0:
            return
        index = forecaster.lengths.index(step.num_steps)
        accepted = sum(step.accepted_drafts)
        if not step.changed_length:
            self._add_calibration(step, forecaster.accepted_drafts(index), accepted)
        self._add_payoff(step, forecaster, index, accepted)

    def _add_regret(self, step: StepObservation, decision: Decision) -> None:
        # A lease also serves other batches, of which the decision says nothing. A step from before
        # the decision was decided by a service that is gone: it had numbers of its own.
        query = decision.query
        if step.batch_size != query.batch_size or step.step_index < query.step_index:
            return
        ran = decision.choice.prediction_for(step.num_steps)
        if ran is None:
            return
        best = max(p.goodput_tokens_per_s for p in decision.choice.predictions)
        self.best_tokens += best * ran.expected_step_s
        self.regret_tokens += (best - ran.goodput_tokens_per_s) * ran.expected_step_s

    def _add_calibration(self, step: StepObservation, expected_drafts: float, accepted: int) -> None:
        first = sum(step.first_step)
        if first:
            accepted -= sum(compress(step.accepted_drafts, step.first_step))
        self.predicted_accepted_tokens += expected_drafts * (step.batch_size - first)
        self.realised_accepted_tokens += accepted

    def _add_payoff(self, step: StepObservation, forecaster: Forecaster, index: int, accepted: int) -> None:
        expected_s = forecaster.step_seconds(index, step.batch_size, step.context_tokens)
        without_s = forecaster.step_seconds(0, step.batch_size, step.context_tokens)
        paid_s = min(step.duration_s, DURATION_CLIP_RATIO * expected_s)
        self.speculated_tokens += step.batch_size + accepted
        self.tokens_without_speculation += step.batch_size * paid_s / without_s
