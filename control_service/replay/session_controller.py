"""The real session, asked and told as online: leases, late telemetry, refits as the server does them."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

import numpy as np

from control_service.core.models import EngineModels
from control_service.core.policy import Policy
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import EngineProfile, Lease, Mode, StepObservation, StepQuery
from control_service.replay.engine import Committed
from control_service.replay.loop import Launch, Verdict
from control_service.replay.model_score import ModelScore
from turbospec.v1.telemetry import export_is_due

# The engine's agent looks this often whether an export is due; it arrives up to LATENESS_MAX_S later.
EXPORT_INTERVAL_S = 0.1
LATENESS_MAX_S = 0.1
# The service learns so many spans, then looks whether to refit.
SPANS_PER_TURN = 16
FALLBACK_REASON = "fallback"


class SessionController:
    """One engine epoch under control of `policy`, as online.

    A step obeys the newest lease that was there at its launch. The answer for step n + 1 is asked
    for as step n is launched (and as a prefill is), unless the lease in force makes that needless:
    it still covers a step beyond, for the batch last asked about, and half of its time is left.
    """

    def __init__(
        self,
        profile: EngineProfile,
        policy: Policy,
        telemetry_seed: np.random.SeedSequence,
    ) -> None:
        self.session = EngineSession(
            profile,
            mode=Mode.ENFORCE,
            policy=policy,
            models=EngineModels(profile),
            terms=LeaseTerms(),
        )
        self.score = ModelScore(profile)
        self._random = np.random.default_rng(telemetry_seed)
        self._lease: Lease | None = None
        self._lease_since_s = 0.0
        self._reason = FALLBACK_REASON
        self._obeyed_id = 0
        self._asked_batch = 0
        self._previous = -1
        self._unsent: list[StepObservation] = []
        self._look_at_s = EXPORT_INTERVAL_S
        self._looks = 0
        self._in_flight: deque[tuple[float, list[StepObservation]]] = deque()

    def decide(self, launch: Launch) -> Verdict:
        """Obey the lease at hand, then ask for the next step's."""
        if launch.prefilled:
            self._ask(launch.step_index, launch)
        lease = self._valid_lease(launch)
        if lease is None:
            self._ask(launch.step_index, launch)
            lease = self._valid_lease(launch)
        verdict = self._obey(lease, launch.batch_size)
        self._ask(launch.step_index + 1, launch)
        return verdict

    def ended(self, launch: Launch, num_steps: int, duration_s: float, committed: Committed) -> None:
        """Queue the step's record; every so often the queue is sent."""
        step = observation(launch, num_steps, self._previous, duration_s, committed)
        self._unsent.append(step._replace(decision_id=self._obeyed_id))
        self._previous = num_steps
        end_s = launch.now_s + duration_s
        if self._sends(end_s, launch.batch_size):
            arrives_s = end_s + self._random.uniform(0.0, LATENESS_MAX_S)
            if self._in_flight:
                # One stream: batches do not overtake one another.
                arrives_s = max(arrives_s, self._in_flight[-1][0])
            self._in_flight.append((arrives_s, self._unsent))
            self._unsent = []

    def _sends(self, now_s: float, batch_size: int) -> bool:
        """Whether the agent has looked again, and found an export due."""
        if now_s < self._look_at_s:
            return False
        looks = 1 + int((now_s - self._look_at_s) / EXPORT_INTERVAL_S)
        self._look_at_s += looks * EXPORT_INTERVAL_S
        self._looks += looks
        due = export_is_due(len(self._unsent), batch_size, self._looks)
        if due:
            self._looks = 0
        return due

    def _valid_lease(self, launch: Launch) -> Lease | None:
        lease = self._lease
        if lease is None:
            return None
        covers = lease.step_index <= launch.step_index < lease.step_index + lease.valid_for_steps
        fresh = launch.now_s < self._lease_since_s + lease.valid_for_ms / 1_000.0
        return lease if covers and fresh else None

    def _obey(self, lease: Lease | None, batch_size: int) -> Verdict:
        if lease is None:
            self._obeyed_id = 0
            return Verdict(0, FALLBACK_REASON)
        self._obeyed_id = lease.decision_id
        tier = bisect_left(lease.tiers, batch_size, key=lambda tier: tier.max_batch_size)
        return Verdict(lease.tiers[tier].num_steps if tier < len(lease.tiers) else 0, self._reason)

    def _ask(self, step_index: int, launch: Launch) -> None:
        if self._needless(step_index, launch):
            return
        self._deliver(launch.now_s)
        self._asked_batch = launch.batch_size
        self._lease = self.session.decide(
            StepQuery(step_index, launch.batch_size, launch.context_tokens, waiting_requests=0)
        )
        self._lease_since_s = launch.now_s
        self._reason = self.session.decisions[-1].choice.reason

    def _needless(self, step_index: int, launch: Launch) -> bool:
        lease = self._lease
        if lease is None or launch.batch_size != self._asked_batch:
            return False
        if launch.now_s >= self._lease_since_s + lease.valid_for_ms / 2_000.0:
            return False
        return lease.step_index <= step_index < lease.step_index + lease.valid_for_steps - 1

    def _deliver(self, now_s: float) -> None:
        """What has arrived by now is learned, a turn at a time, before the answer is made."""
        while self._in_flight and self._in_flight[0][0] <= now_s:
            steps = self._in_flight.popleft()[1]
            for turn in range(0, len(steps), SPANS_PER_TURN):
                for step in steps[turn : turn + SPANS_PER_TURN]:
                    self.score.expect(self.session.models, step)
                    cause = self.session.observe(step)
                    assert cause is None, cause
                if self.session.needs_refit:
                    self.session.refit()


def observation(
    launch: Launch, num_steps: int, previous_num_steps: int, duration_s: float, committed: Committed
) -> StepObservation:
    """The step's record as the engine makes it: accepted drafts, not what would have been accepted."""
    return StepObservation(
        step_index=launch.step_index,
        batch_size=launch.batch_size,
        context_tokens=launch.context_tokens,
        waiting_requests=0,
        num_steps=num_steps,
        previous_num_steps=previous_num_steps,
        start_s=launch.now_s,
        duration_s=duration_s,
        accepted_drafts=tuple((committed.tokens - 1).tolist()),
        first_step=tuple(committed.first_step),
        source="lease",
        fallback_reason="",
        decision_id=0,
        decision_wait_us=0.0,
        control_us=0.0,
        dropped_records=0,
        after_full_accept=tuple(committed.after_full_accept),
    )
