"""SGLang's own rule, `--speculative-adaptive` of 0.5.23, run from outside the engine.

Batch sizes fall into slots; each slot averages accepted drafts per request over its
steps and moves along its own list of lengths, one past what is accepted. A slot at
length 0 goes up by one entry at every decision, to look. There is no model of cost: the
lists themselves keep large batches from speculating.

As in SGLang, a step counts toward the slot of its batch size whatever length it really
ran with, and a full accept is averaged as if it were exact. (The behaviour of
`AdaptiveSpeculativeParams` in sglang/srt/speculative/adaptive_spec_params.py.)
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from control_service.core.buckets import BatchBuckets
from control_service.core.policy import ModelView, forecast_predictions, merge_tiers
from control_service.core.types import Choice, EngineProfile, StepObservation, StepQuery


@dataclass(frozen=True, slots=True)
class SlotConfig:
    """One slot's lengths, ascending, and its rule. Names and defaults are SGLang's.

    up_hysteresis, down_hysteresis: added to the thresholds, in accepted tokens.
    ceiling_coeff: above 0, a length is not kept beyond this many times the average.
    """

    candidate_steps: tuple[int, ...]
    ema_alpha: float = 0.2
    update_interval: int = 5
    warmup_batches: int = 10
    up_hysteresis: float = 0.0
    down_hysteresis: float = -0.25
    ceiling_coeff: float = 0.0


# SGLang 0.5.23's default table: first batch size of the slot, and its rule.
DEFAULT_SLOTS: dict[int, SlotConfig] = {
    1: SlotConfig((1, 3, 5, 7)),
    8: SlotConfig((0, 1, 3), down_hysteresis=0.0),
    32: SlotConfig((0, 1), down_hysteresis=0.0),
    64: SlotConfig((0,), down_hysteresis=0.0),
}


class Slot:
    """The length in force for a range of batch sizes, and the average that moves it."""

    def __init__(self, config: SlotConfig, initial_num_steps: int) -> None:
        self._config = config
        lengths = config.candidate_steps
        given = initial_num_steps in lengths
        self._place = lengths.index(initial_num_steps) if given else len(lengths) // 2
        # As if one less than the length were accepted: neither up nor down by itself.
        self.average = float(self.num_steps - 1)
        self._steps = 0

    @property
    def num_steps(self) -> int:
        """The length in force."""
        return self._config.candidate_steps[self._place]

    @property
    def steps_to_decision(self) -> int:
        """How many more steps of this slot until its length may change."""
        since_warm = self._steps - self._config.warmup_batches
        interval = self._config.update_interval
        return interval - (since_warm % interval if since_warm > 0 else since_warm)

    def observe(self, accepted_drafts: Sequence[int]) -> None:
        """One step of this slot: average it, and decide if a decision is due."""
        if not accepted_drafts:
            return
        config = self._config
        if self.num_steps > 0:
            mean = sum(accepted_drafts) / len(accepted_drafts)
            self.average = (1 - config.ema_alpha) * self.average + config.ema_alpha * mean
        self._steps += 1
        since_warm = self._steps - config.warmup_batches
        if since_warm > 0 and since_warm % config.update_interval == 0:
            self._decide()

    def _decide(self) -> None:
        before = self._place
        if self.num_steps == 0:
            self._look()
            return
        self._fall()
        if self._place == before:
            self._rise()
        self._cap(before)

    def _look(self) -> None:
        """Leave length 0 for the next one, whose neutral average replaces an empty one."""
        self._place = min(self._place + 1, len(self._config.candidate_steps) - 1)
        if self.num_steps > 0 and self.average < 0:
            self.average = float(self.num_steps - 1)

    def _fall(self) -> None:
        lengths = self._config.candidate_steps
        while self._place > 0:
            lower = lengths[self._place - 1]
            threshold = 0.5 if lower == 0 else lower - 0.5
            if self.average > threshold + self._config.down_hysteresis:
                return
            self._place -= 1

    def _rise(self) -> None:
        last = len(self._config.candidate_steps) - 1
        while self._place < last and self.average > self.num_steps - 0.5 + self._config.up_hysteresis:
            self._place += 1

    def _cap(self, before: int) -> None:
        """The ceiling lowers a length that was kept; it never stands in the way of a rise."""
        if self._config.ceiling_coeff <= 0 or self._place > before:
            return
        ceiling = max(1, math.ceil(self.average * self._config.ceiling_coeff))
        while self._place > 0 and self.num_steps > ceiling:
            self._place -= 1


class EmaPolicy:
    """SGLang's slots behind the interface of policies.

    A batch is padded to the captured size that SGLang would pad it to, then belongs to the
    slot with the largest first size not above that (the first slot if there is none).
    Slots start at the length that the engine was launched with.
    """

    name = "ema"

    def __init__(self, profile: EngineProfile, slots: dict[int, SlotConfig]) -> None:
        self._sizes = sorted(slots)
        self._slots = [Slot(slots[size], profile.launch_num_steps) for size in self._sizes]
        self._buckets = BatchBuckets(profile.graph_batch_sizes, profile.max_running_requests)
        self._last_sizes = self._ranges(profile.max_running_requests)

    def choose(self, query: StepQuery, view: ModelView) -> Choice:
        """The length in force for the batch's slot; tiers are the slots."""
        tiers = merge_tiers([(last, self._slots[place].num_steps) for last, place in self._last_sizes])
        slot = self._slots[self._place(query.batch_size)]
        predictions = forecast_predictions(query, view)
        return Choice(slot.num_steps, "ema", tiers, predictions, slot.steps_to_decision)

    def observe(self, step: StepObservation, view: ModelView) -> None:
        """Every step counts, in the order in which results arrive."""
        self._slots[self._place(step.batch_size)].observe(step.accepted_drafts)

    def _place(self, batch_size: int) -> int:
        return max(bisect_right(self._sizes, self._buckets.paid_size(batch_size)) - 1, 0)

    def _ranges(self, max_running_requests: int) -> list[tuple[int, int]]:
        """(last batch size, slot) of every slot that a batch of this engine can fall into."""
        batches, ranges, covered = range(1, max_running_requests + 1), [], 0
        for place in range(len(self._sizes)):
            last = bisect_left(batches, place + 1, key=self._place)
            if last > covered:
                ranges.append((last, place))
                covered = last
        return ranges
