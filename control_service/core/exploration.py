"""When to run another length than the best one, only to learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from control_service.core.forecast import BatchForecast

PROBE_STEPS = 5
BACKOFF_START_STEPS = 48
BACKOFF_MAX_STEPS = 1_024
# At length 0 acceptance is not seen at all: look again so soon, at the drafts of a few requests or steps.
BLIND_BACKOFF_S = 1.0
BLIND_BACKOFF_MIN_STEPS = 32
BLIND_BACKOFF_MAX_STEPS = 256
BLIND_DRAFTS = 16
# At another length drafts beyond it are not seen: looks at them may cost this share of all steps, the first
# one after so many, since what was known to choose it is still fresh then.
BEYOND_SHARE = 0.002
BEYOND_FIRST_STEPS = 128
BEYOND_INTERVAL_MIN_STEPS = 256
# A rival whose forecast has risen by this much since it was last judged need not wait.
NEWS_GAIN = 0.1
# A rival this many standard errors from the lead is worth a look.
OPTIMISM_Z = 1.0
MIN_UPSIDE = 0.01
# Nobody looks beyond the length in force unless a longer one would be so much better, were every draft that
# is not seen accepted.
MIN_MOST_UPSIDE = 0.1
# Probing may cost this share of all steps, saved up to a cap. It begins with some steps, or with what of them
# is over in that time.
BUDGET_SHARE = 0.008
BUDGET_START_STEPS = 4.0
BUDGET_START_S = 0.1
BUDGET_MAX_STEPS = 6.0
MIN_PROBE_LOSS = 0.02
# Telemetry of a probe that has not come after this many steps is given up.
PROBE_PATIENCE_STEPS = 200


class Probe(NamedTuple):
    """Run `num_steps` for steps first .. last."""

    num_steps: int
    first_step_index: int
    last_step_index: int


class _Look(NamedTuple):
    """A rival by its index, and how many of its steps tell enough."""

    rival: int
    steps: int


@dataclass(slots=True)
class _Backoff:
    next_step_index: int = 0
    judged_gain: float = 0.0
    interval_steps: int = BACKOFF_START_STEPS


class Prober:
    """Decides when another length is worth a short look.

    Two kinds of rivals: one whose forecast could be better within its uncertainty, and the shortest length
    beyond the one in force that would pay if every draft that is not seen were accepted and its price were a
    standard error lower. What is believed of those drafts only ages, and three that were rejected once would
    speak against them for good. Rivals of each bucket back off exponentially,
    looks beyond another length than 0 by what they cost, and all together live within a budget of lost steps.
    """

    def __init__(self) -> None:
        self._active: Probe | None = None
        self._backoff: dict[tuple[int, int], _Backoff] = {}
        # By bucket: the step from which a look beyond a length in force other than 0 is due.
        self._beyond_at: dict[int, int] = {}
        self._budget_steps = 0.0
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
        self._save_up(step_index, float(forecast.seconds[incumbent]))
        if self._awaiting(step_index, observed_step_index):
            return None
        look = self._look(step_index, bucket, forecast, incumbent)
        if look is None:
            return None
        gain = float(forecast.log_goodput[look.rival] - forecast.log_goodput[incumbent])
        # In steps of the length in force: one that takes six times as long costs six times as much.
        slowness = float(forecast.seconds[look.rival] / forecast.seconds[incumbent])
        loss_steps = look.steps * slowness * max(MIN_PROBE_LOSS, 1.0 - math.exp(gain))
        if loss_steps > self._budget_steps:
            return None
        self._budget_steps -= loss_steps
        backoff = self._backoff.setdefault((bucket, look.rival), _Backoff())
        if gain > backoff.judged_gain + NEWS_GAIN:
            backoff.interval_steps = BACKOFF_START_STEPS
        if look.rival > incumbent:
            affordable = max(int(loss_steps / BEYOND_SHARE), BEYOND_INTERVAL_MIN_STEPS)
            self._beyond_at[bucket] = step_index + affordable
        blind = forecast.lengths[incumbent] == 0
        limit = _blind_backoff_steps(float(forecast.seconds[incumbent])) if blind else BACKOFF_MAX_STEPS
        backoff.next_step_index = step_index + backoff.interval_steps
        backoff.interval_steps = min(2 * backoff.interval_steps, limit)
        backoff.judged_gain = gain
        self._active = Probe(forecast.lengths[look.rival], step_index, step_index + look.steps - 1)
        return self._active

    def forget_backoff(self, bucket: int) -> None:
        """The load has changed here: what was not worth a look may be now."""
        self._beyond_at.pop(bucket, None)
        for key in [key for key in self._backoff if key[0] == bucket]:
            del self._backoff[key]

    def forget_backoffs(self) -> None:
        """Acceptance has changed: nothing that was judged before holds, in no bucket."""
        self._beyond_at.clear()
        self._backoff.clear()

    def _save_up(self, step_index: int, step_s: float) -> None:
        before, self._budget_at = self._budget_at, step_index
        if before is None:
            self._budget_steps = min(BUDGET_START_STEPS, BUDGET_START_S / step_s)
        else:
            earned = BUDGET_SHARE * max(step_index - before, 0)
            self._budget_steps = min(self._budget_steps + earned, BUDGET_MAX_STEPS)

    def _awaiting(self, step_index: int, observed_step_index: int) -> bool:
        probe = self._active
        if probe is None or observed_step_index >= probe.last_step_index:
            return False
        return step_index <= probe.last_step_index + PROBE_PATIENCE_STEPS

    def _look(self, step_index: int, bucket: int, forecast: BatchForecast, incumbent: int) -> _Look | None:
        gain, error = forecast.gains(incumbent)
        hope = gain + OPTIMISM_Z * error
        hope[incumbent] = -np.inf
        blind, few = forecast.lengths[incumbent] == 0, _blind_steps(forecast.batch_size)
        # From length 0 only probes tell: one that is ahead, but not beyond doubt, is looked at again at once.
        if blind and gain[forecast.best] > 0.0:
            return _Look(forecast.best, few)
        for index in np.argsort(-hope).tolist():
            if hope[index] <= MIN_UPSIDE:
                break
            if self._due(step_index, bucket, index, float(gain[index])):
                return _Look(index, few if blind else PROBE_STEPS)
        # Optimistic about the price too: it may have been paid in a slow moment.
        most = forecast.most_gains(incumbent, OPTIMISM_Z)
        if most.max() <= MIN_MOST_UPSIDE:
            return None
        shortest = int(np.flatnonzero(most > MIN_UPSIDE)[0])
        if blind:
            due = self._due(step_index, bucket, shortest, float(gain[shortest]))
        else:
            due = step_index >= self._beyond_at.setdefault(bucket, step_index + BEYOND_FIRST_STEPS)
        return _Look(shortest, few) if due else None

    def _due(self, step_index: int, bucket: int, index: int, gain: float) -> bool:
        backoff = self._backoff.get((bucket, index))
        if backoff is None or step_index >= backoff.next_step_index:
            return True
        return gain > backoff.judged_gain + NEWS_GAIN


def _blind_steps(batch_size: int) -> int:
    """A large batch tells in one step what one request tells in many."""
    return min(-(-BLIND_DRAFTS // batch_size), PROBE_STEPS)


def _blind_backoff_steps(step_s: float) -> int:
    return min(max(int(BLIND_BACKOFF_S / step_s), BLIND_BACKOFF_MIN_STEPS), BLIND_BACKOFF_MAX_STEPS)
