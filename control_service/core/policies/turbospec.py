"""The published TurboSpec algorithm (arXiv 2406.14066 and its authors' branch of vLLM).

What is taken from there: one acceptance rate `a` for the whole engine, moved by every
speculating step as a = 0.85 a + 0.15 (accepted / drafted), from 0.7; expected tokens of a
request and step (1 - a^(k+1)) / (1 - a); a step time linear in batch size, batched tokens, KV
tokens and draft passes; a decision every 20 steps that holds for all batches until the
next; length 0 favoured by a factor of 1.1; the scan goes up from 0 and stops where goodput
first falls. Before the first decision the length is 0, and a length of 0 leaves `a` as it is.

What has to differ:
- The original profiles step times offline. Here a short tour over the lengths comes first,
  and later steps refine the same least-squares fit. The tour does not touch `a`.
- The original compares every draft with the target, also behind the first rejection. An engine
  reports the accepted prefix, so by default `drafted` counts only drafts up to
  and including the first rejection, which estimates the same rate; with `acceptance=drafted`
  it counts them all, which is the literal quotient and lower the longer the length.
"""

from __future__ import annotations

from control_service.core.policies.linear_time import LinearStepTime
from control_service.core.policy import ModelView, forecast_predictions
from control_service.core.types import Choice, EngineProfile, StepObservation, StepQuery, Tier

START_RATE = 0.7
KEPT_SHARE = 0.85
DECISION_STEPS = 20
NO_SPECULATION_FAVOUR = 1.1
PROFILE_STEPS_PER_LENGTH = 5
# A quotient of 1 would make the geometric sum 0 / 0.
RATE_MAX = 1.0 - 1e-9
ACCEPTANCES = ("reached", "drafted")


class TurboSpecPolicy:
    """One rate, one linear fit, one length.

    acceptance: what accepted drafts are divided by, see the module. Expects steps of the
    engine's own order; a step whose length has just changed is not timed.
    """

    name = "turbospec"

    def __init__(self, profile: EngineProfile, acceptance: str = "reached") -> None:
        self._lengths = profile.candidate_num_steps
        self._max_running_requests = profile.max_running_requests
        self._counts_all_drafts = acceptance == "drafted"
        self._times = LinearStepTime()
        self.rate = START_RATE
        self._num_steps = 0
        self._reason = "models_not_ready"
        self._anchor_at = 0
        self._profile_until: int | None = None
        self._decide_at = 0

    def choose(self, query: StepQuery, view: ModelView) -> Choice:
        """The tour first, then the length of the last decision."""
        # Step indices start over when the engine does.
        if self._profile_until is None or query.step_index < self._anchor_at:
            self._profile_until = self._begin(query, view)
        left = self._profile_until - query.step_index
        if left > 0:
            place, others = divmod(left - 1, PROFILE_STEPS_PER_LENGTH)
            length = self._lengths[min(place, len(self._lengths) - 1)]
            return self._choice(length, "cold_start", others + 1, query, view)
        if query.step_index >= self._decide_at:
            self._decide(query)
        return self._choice(self._num_steps, self._reason, self._decide_at - query.step_index, query, view)

    def observe(self, step: StepObservation, view: ModelView) -> None:
        """Acceptance of a speculating step, and the time of any whose length is not new."""
        if not step.changed_length:
            self._times.observe(step)
        if step.num_steps == 0 or (self._profile_until or 0) > step.step_index:
            return
        accepted = sum(step.accepted_drafts)
        drafted = step.batch_size * step.num_steps
        if not self._counts_all_drafts:
            drafted = sum(min(count + 1, step.num_steps) for count in step.accepted_drafts)
        self.rate = KEPT_SHARE * self.rate + (1.0 - KEPT_SHARE) * accepted / drafted

    def expected_tokens(self, num_steps: int) -> float:
        """Tokens that a request and step commits at the present rate: the paper's geometric sum."""
        rate = min(self.rate, RATE_MAX)
        return float((1.0 - rate ** (num_steps + 1)) / (1.0 - rate))

    def _begin(self, query: StepQuery, view: ModelView) -> int:
        """Plan the tour, unless it was made or may not be; returns the first step after it."""
        tour = (
            0 if self._times.ready or not view.may_explore else PROFILE_STEPS_PER_LENGTH * len(self._lengths)
        )
        self._began_at = query.step_index
        self._decide_at = query.step_index + tour + DECISION_STEPS
        return query.step_index + tour

    def _decide(self, query: StepQuery) -> None:
        self._anchor_at = query.step_index
        self._decide_at = query.step_index + DECISION_STEPS
        self._times.fit()
        if not self._times.ready:
            return
        best, best_goodput = 0, -1.0
        for length in self._lengths:
            goodput = self._goodput(query, length)
            if goodput <= best_goodput:
                break
            best, best_goodput = length, goodput
        self._num_steps, self._reason = best, "best_goodput"

    def _goodput(self, query: StepQuery, num_steps: int) -> float:
        """Tokens a second, 0 where the fit prices the step at nothing or less."""
        seconds = self._times.seconds(query.batch_size, query.context_tokens, num_steps)
        if seconds <= 0.0:
            return 0.0
        favour = NO_SPECULATION_FAVOUR if num_steps == 0 else 1.0
        return favour * query.batch_size * self.expected_tokens(num_steps) / seconds

    def _choice(
        self, num_steps: int, reason: str, hold_steps: int, query: StepQuery, view: ModelView
    ) -> Choice:
        tiers = (Tier(self._max_running_requests, num_steps),)
        return Choice(num_steps, reason, tiers, forecast_predictions(query, view), hold_steps)
