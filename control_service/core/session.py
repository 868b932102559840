"""One engine epoch: its models, policy, mode, counters and the decisions worth explaining."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from control_service.core.counters import EngineCounters
from control_service.core.models import EngineModels
from control_service.core.policy import ModelView, Policy
from control_service.core.scorecard import Scorecard
from control_service.core.types import Decision, EngineProfile, Lease, Mode, StepObservation, StepQuery, Tier
from control_service.core.validation import rejection_cause

# Until here models and choice change every few steps, and leases are as short.
EARLY_STEPS = 64
# A refit takes a few milliseconds, and an engine that computes on the same core pays for it too: often while
# little is known, so that a cold start is short, then so many steps apart, or so many seconds where steps are
# slow. It changes little of an engine that has run one length in batches of one bucket for a while, unless
# acceptance has changed.
REFIT_STEPS_MIN = 4
REFIT_STEPS, REFIT_SECONDS = 32, 1.0
REFIT_STEPS_QUIET, REFIT_SECONDS_QUIET = 128, 4.0
QUIET_AFTER_STEPS = 512
# A retried export must not count a step twice.
REMEMBERED_STEPS = 8_192
NOT_SWITCHES = frozenset({"probe", "cold_start", "no_telemetry", "models_not_ready"})


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How long an answer holds, and how many decisions are kept."""

    valid_for_steps: int = 16
    valid_for_ms: int = 1_000
    decisions_kept: int = 1_024


class EngineSession:
    """Everything known of one epoch of one engine. Events in, leases out; not thread-safe."""

    def __init__(
        self, profile: EngineProfile, *, mode: Mode, policy: Policy, models: EngineModels, terms: LeaseTerms
    ) -> None:
        self.profile = profile
        self.profile_hash = profile.learned_key()
        self.mode = mode
        self.canary_percent = 0
        self.policy = policy
        # As the operator gave them, so that a policy can be put back.
        self.policy_parameters: dict[str, str] = {}
        self.models = models
        self.counters = EngineCounters(profile.candidate_num_steps[-1])
        self.scorecard = Scorecard()
        self.decisions: deque[Decision] = deque(maxlen=terms.decisions_kept)
        self.newest_step: StepObservation | None = None
        self._terms = terms
        self._steady_num_steps: int | None = None
        self._seen_steps: set[int] = set()
        self._seen_order: deque[int] = deque()
        self._steps_since_refit = 0
        self._seconds_since_refit = 0.0
        self._probe_seen = False
        # Length and batch bucket of the last step, and for how many steps they have been the same.
        self._regime: tuple[int, int] | None = None
        self._regime_steps = 0
        # Called when leases already given must be replaced, not only left to run out.
        self.on_change: Callable[[], None] = _nothing

    @property
    def needs_refit(self) -> bool:
        """Whether enough new steps were seen since the last refit."""
        if self._steps_since_refit < REFIT_STEPS_MIN:
            return False
        quiet = self._regime_steps >= QUIET_AFTER_STEPS
        return (
            self.counters.steps_total < EARLY_STEPS
            or self._probe_seen
            or self.models.acceptance_has_changed
            or self._steps_since_refit >= (REFIT_STEPS_QUIET if quiet else REFIT_STEPS)
            or self._seconds_since_refit >= (REFIT_SECONDS_QUIET if quiet else REFIT_SECONDS)
        )

    def decide(self, query: StepQuery) -> Lease:
        """Answer one request."""
        if self.mode is Mode.OFF:
            return self._lease(query, 0, (), None)
        choice = self.policy.choose(self._with_context(query), self._view())
        counters = self.counters
        counters.decisions_total += 1
        counters.decisions_by_reason[choice.reason] += 1
        if choice.reason == "probe":
            counters.probe_decisions_total += 1
        if choice.reason not in NOT_SWITCHES:
            if self._steady_num_steps not in (None, choice.num_steps):
                counters.switches_total += 1
            self._steady_num_steps = choice.num_steps
        decision = Decision(counters.decisions_total, query, self.policy.name, self.models.generation, choice)
        self.decisions.append(decision)
        return self._lease(query, decision.decision_id, choice.tiers, choice.hold_steps)

    def observe(self, step: StepObservation) -> str | None:
        """Learn one served step. Returns why it was refused, None if it was taken."""
        cause = rejection_cause(step, self.profile) or self._remember(step.step_index)
        if cause is not None:
            self.counters.drops_by_cause[cause] += 1
            return cause
        self.counters.count_step(step)
        if self.newest_step is None or step.step_index > self.newest_step.step_index:
            self.newest_step = step
        decided = self.decision(step.decision_id) if step.decision_id else None
        self.scorecard.observe(step, self.models.forecaster, decided)
        # A probe is run to be judged, and the next waits until it was.
        self._probe_seen |= decided is not None and decided.choice.reason == "probe"
        error = self.models.observe(step)
        if error is not None:
            self.counters.step_time_error_ratio.observe(error)
        self.policy.observe(step, self._view())
        self._steps_since_refit += 1
        self._seconds_since_refit += step.duration_s
        regime = step.num_steps, self.models.buckets.index(step.batch_size)
        self._regime_steps = self._regime_steps + 1 if regime == self._regime else 0
        self._regime = regime
        return None

    def refit(self) -> None:
        """Take in what was observed; later decisions use it."""
        self.models.refit()
        self._probe_seen = False
        self._steps_since_refit = 0
        self._seconds_since_refit = 0.0

    def set_mode(self, mode: Mode, canary_percent: int) -> None:
        """What the engine does with answers, at once."""
        self.mode = mode
        self.canary_percent = canary_percent
        self.on_change()

    def set_policy(self, policy: Policy, parameters: Mapping[str, str] | None = None) -> None:
        """Who decides, at once; `parameters` are what the policy was made of, if anything."""
        self.policy = policy
        self.policy_parameters = dict(parameters or {})
        self.on_change()

    def decision(self, decision_id: int) -> Decision | None:
        """A kept decision; 0 is the newest."""
        if not self.decisions:
            return None
        if decision_id == 0:
            return self.decisions[-1]
        place = decision_id - self.decisions[0].decision_id
        return self.decisions[place] if 0 <= place < len(self.decisions) else None

    def _with_context(self, query: StepQuery) -> StepQuery:
        """An engine that does not know its context yet says 0: the newest step's is close."""
        newest = self.newest_step
        if query.context_tokens or newest is None:
            return query
        return query._replace(context_tokens=newest.context_tokens * query.batch_size // newest.batch_size)

    def _view(self) -> ModelView:
        newest = self.newest_step
        return ModelView(
            forecaster=self.models.forecaster,
            generation=self.models.generation,
            observed_step_index=newest.step_index if newest is not None else 0,
            may_explore=self.mode in (Mode.CANARY, Mode.ENFORCE),
        )

    def _lease(
        self, query: StepQuery, decision_id: int, tiers: tuple[Tier, ...], hold_steps: int | None
    ) -> Lease:
        valid_for_steps = self._terms.valid_for_steps
        if self.counters.steps_total < EARLY_STEPS:
            valid_for_steps = min(valid_for_steps, REFIT_STEPS_MIN)
        if hold_steps is not None:
            valid_for_steps = min(valid_for_steps, hold_steps)
        return Lease(
            epoch=self.profile.epoch,
            step_index=query.step_index,
            decision_id=decision_id,
            model_generation=self.models.generation,
            valid_for_steps=valid_for_steps,
            valid_for_ms=self._terms.valid_for_ms,
            mode=self.mode,
            canary_percent=self.canary_percent if self.mode is Mode.CANARY else 0,
            tiers=tiers,
        )

    def _remember(self, step_index: int) -> str | None:
        if step_index in self._seen_steps:
            return "duplicate_step"
        if len(self._seen_order) == REMEMBERED_STEPS:
            if step_index < self._seen_order[0]:
                return "stale_step"
            self._seen_steps.discard(self._seen_order.popleft())
        self._seen_steps.add(step_index)
        self._seen_order.append(step_index)
        return None


def _nothing() -> None:
    """Nobody is to be told."""
