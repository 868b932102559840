"""When to run a length only to learn: the cold start, and probes afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from control_service.core.forecast import BatchForecast

COLD_BURST_STEPS = 3
COLD_LENGTHS_MAX = 6
# Steps to wait for telemetry before the tour is run again; doubles each time.
COLD_PATIENCE_STEPS = 64
COLD_PATIENCE_MAX_STEPS = 4_096

PROBE_STEPS = 5
BACKOFF_START_STEPS = 48
BACKOFF_MAX_STEPS = 1_024
# At length 0 acceptance is not seen at all: look again sooner. The look is cheap there.
BLIND_BACKOFF_MAX_STEPS = 256
# A rival whose forecast has risen by this much since it was last judged need not wait.
NEWS_GAIN = 0.1
# A rival this many standard errors from the lead is worth a look.
OPTIMISM_Z = 1.0
MIN_UPSIDE = 0.01
# Probing may cost this share of all steps, saved up to a cap.
BUDGET_SHARE = 0.008
BUDGET_START_STEPS = 4.0
BUDGET_MAX_STEPS = 6.0
MIN_PROBE_LOSS = 0.02
# Telemetry of a probe that has not come after this many steps is given up.
PROBE_PATIENCE_STEPS = 200


class ColdStart:
    """A tour over the lengths, a few steps each, so that a first fit exists.

    Longest first: it tells about every position at once; then none, the reference.
    Advances with step indices, not with telemetry, which comes late.
    """

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self._tour = _tour(lengths)
        self._start: int | None = None
        self._patience = COLD_PATIENCE_STEPS

    @property
    def _tour_steps(self) -> int:
        return COLD_BURST_STEPS * len(self._tour)

    def length_at(self, step_index: int) -> int | None:
        """The length to run at this step; None once the tour is over."""
        if self._start is None:
            self._start = step_index
        stage = (step_index - self._start) // COLD_BURST_STEPS
        return self._tour[max(stage, 0)] if stage < len(self._tour) else None

    def steps_left(self, step_index: int) -> int:
        """For how many steps from this one on `length_at` says the same."""
        start = self._start if self._start is not None else step_index
        return COLD_BURST_STEPS - max(step_index - start, 0) % COLD_BURST_STEPS

    def repeat_if_due(self, step_index: int) -> None:
        """The models are still not ready: start over once patience has run out."""
        if self._start is None or step_index < self._start + self._tour_steps + self._patience:
            return
        self._start = step_index
        self._patience = min(2 * self._patience, COLD_PATIENCE_MAX_STEPS)


def _tour(lengths: tuple[int, ...]) -> tuple[int, ...]:
    positive = [length for length in lengths if length > 0]
    if len(positive) >= COLD_LENGTHS_MAX:
        places = np.linspace(0, len(positive) - 1, COLD_LENGTHS_MAX - 1).round().astype(int)
        positive = [positive[place] for place in sorted(set(places.tolist()))]
    return (*positive[:0:-1], 0, *positive[:1]) if len(positive) > 1 else (*positive, 0)


class Probe(NamedTuple):
    """Run `num_steps` for steps first .. last."""

    num_steps: int
    first_step_index: int
    last_step_index: int


@dataclass(slots=True)
class _Backoff:
    next_step_index: int = 0
    judged_gain: float = 0.0
    interval_steps: int = BACKOFF_START_STEPS


class Prober:
    """Decides when another length is worth a short look.

    Two kinds of rivals: one whose forecast could be better within its uncertainty, and,
    from length 0 (which yields no acceptance data, so its estimate only ages), the shortest
    length that would pay if everything were accepted. Each rival of each bucket backs off
    exponentially, and all of them together live within a budget of lost steps.
    """

    def __init__(self) -> None:
        self._active: Probe | None = None
        self._backoff: dict[tuple[int, int], _Backoff] = {}
        self._budget_steps = BUDGET_START_STEPS
        self._budget_at: int | None = None

    def running_at(self, step_index: int) -> Probe | None:
        """The probe that covers this step."""
        probe = self._active
        if probe is not None and probe.first_step_index <= step_index <= probe.last_step_index:
            return probe
        return None

    def consider(
        self, step_index: int, observed_step_index: int, bucket: int, forecast: BatchForecast, incumbent: int
    ) -> Probe | None:
        """Start a probe if one is due; `incumbent` is the index of the length in force."""
        self._save_up(step_index)
        if self._awaiting(step_index, observed_step_index):
            return None
        rival = self._rival(step_index, bucket, forecast, incumbent)
        if rival is None:
            return None
        gain = float(forecast.log_goodput[rival] - forecast.log_goodput[incumbent])
        loss_steps = PROBE_STEPS * max(MIN_PROBE_LOSS, 1.0 - math.exp(gain))
        if loss_steps > self._budget_steps:
            return None
        self._budget_steps -= loss_steps
        backoff = self._backoff.setdefault((bucket, rival), _Backoff())
        if gain > backoff.judged_gain + NEWS_GAIN:
            backoff.interval_steps = BACKOFF_START_STEPS
        limit = BLIND_BACKOFF_MAX_STEPS if forecast.lengths[incumbent] == 0 else BACKOFF_MAX_STEPS
        backoff.next_step_index = step_index + backoff.interval_steps
        if gain <= 0.0:
            # One that is expected to be better costs nothing to look at, and is not put off for long.
            backoff.interval_steps = min(2 * backoff.interval_steps, limit)
        backoff.judged_gain = gain
        self._active = Probe(forecast.lengths[rival], step_index, step_index + PROBE_STEPS - 1)
        return self._active

    def forget_backoff(self, bucket: int) -> None:
        """The load has changed here: what was not worth a look may be now."""
        for key in [key for key in self._backoff if key[0] == bucket]:
            del self._backoff[key]

    def _save_up(self, step_index: int) -> None:
        before, self._budget_at = self._budget_at, step_index
        if before is not None:
            earned = BUDGET_SHARE * max(step_index - before, 0)
            self._budget_steps = min(self._budget_steps + earned, BUDGET_MAX_STEPS)

    def _awaiting(self, step_index: int, observed_step_index: int) -> bool:
        probe = self._active
        if probe is None or observed_step_index >= probe.last_step_index:
            return False
        return step_index <= probe.last_step_index + PROBE_PATIENCE_STEPS

    def _rival(self, step_index: int, bucket: int, forecast: BatchForecast, incumbent: int) -> int | None:
        gain, error = forecast.gains(incumbent)
        hope = gain + OPTIMISM_Z * error
        hope[incumbent] = -np.inf
        for index in np.argsort(-hope).tolist():
            if hope[index] <= MIN_UPSIDE:
                break
            if self._due(step_index, bucket, index, float(gain[index])):
                return int(index)
        if forecast.lengths[incumbent] == 0:
            most = forecast.most_log_goodput - forecast.log_goodput[incumbent]
            for index in np.flatnonzero(most > MIN_UPSIDE)[:1].tolist():
                if self._due(step_index, bucket, index, float(gain[index])):
                    return int(index)
        return None

    def _due(self, step_index: int, bucket: int, index: int, gain: float) -> bool:
        backoff = self._backoff.get((bucket, index))
        if backoff is None or step_index >= backoff.next_step_index:
            return True
        return gain > backoff.judged_gain + NEWS_GAIN
