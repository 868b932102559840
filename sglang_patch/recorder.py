"""What happened in each decode step, collected on the step thread.

A record is opened as its step is launched and is complete when two things are known:
the result (accepted drafts, which arrive one step late under overlap scheduling) and
the end (the launch of the next step, so that the duration is what the step cost the
requests in it, scheduling and result handling included).

Complete records are handed over a few at a time: between two steps the model's weights
sweep our code and data from the caches, and several records cost the step thread little
more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sglang_patch.decision import Decision

# Handed over together: so many steps at most, and none that ended longer before the newest.
HAND_OVER_STEPS: Final = 4
HAND_OVER_NS: Final = 250_000_000


class StepRecord:
    """One decode step. Filled in as it becomes known, then never changed.

    What most steps do not have lives on the class: the step thread writes only what is there.
    """

    end_ns = 0
    processed_ns = 0
    # Time our code took on the step thread, waiting for a lease excluded.
    control_ns = 0
    # Host time of the phases; 0 where a phase did not run or is not measured.
    draft_ns = 0
    verify_ns = 0
    draft_extend_ns = 0
    num_steps = -1
    previous_num_steps = -1
    accepted_drafts: Sequence[int] = ()
    first_step: Sequence[bool] = ()
    after_full_accept: Sequence[bool] = ()

    def __init__(
        self,
        step_index: int,
        batch_size: int,
        context_tokens: int,
        waiting_requests: int,
        decision: Decision,
        start_ns: int,
    ) -> None:
        self.step_index = step_index
        self.batch_size = batch_size
        self.context_tokens = context_tokens
        self.waiting_requests = waiting_requests
        self.decision = decision
        self.start_ns = start_ns


class StepRecorder:
    """Owns the open record, and those complete that have not gone to ``sink`` yet; all on the step thread."""

    def __init__(self, sink: Callable[[StepRecord], None]) -> None:
        self._sink = sink
        self._running: StepRecord | None = None
        self._complete: list[StepRecord] = []
        # Length of the newest step whose result is known.
        self.last_num_steps = -1

    @property
    def running(self) -> StepRecord | None:
        """The step launched last, until the next one begins."""
        return self._running

    def launch(self, record: StepRecord) -> None:
        self._running = record

    def processed(
        self, record: StepRecord, num_steps: int, accepted_drafts: Sequence[int], now_ns: int
    ) -> None:
        """The result is there, in the order of launches: ``num_steps`` is what the step really ran with."""
        record.num_steps = num_steps
        record.previous_num_steps = self.last_num_steps
        self.last_num_steps = num_steps
        record.accepted_drafts = accepted_drafts
        record.processed_ns = now_ns
        if record.end_ns:
            # Nothing launched since: there may be no later step to hand it over with.
            self._completed(record, at_once=self._running is None)

    def end(self, now_ns: int, *, idled: bool) -> None:
        """The next launch is about to happen, or the engine went idle after the step."""
        record, self._running = self._running, None
        if record is None:
            return
        record.end_ns = record.processed_ns if idled and record.processed_ns else now_ns
        if record.processed_ns:
            self._completed(record, at_once=idled)

    def hand_over(self) -> None:
        """All that is complete goes to the sink."""
        # Let go of first: a record that the sink refuses must not come again with the next ones.
        complete, self._complete = self._complete, []
        for record in complete:
            self._sink(record)

    def _completed(self, record: StepRecord, *, at_once: bool) -> None:
        complete = self._complete
        complete.append(record)
        if at_once or len(complete) >= HAND_OVER_STEPS or record.end_ns - complete[0].end_ns >= HAND_OVER_NS:
            self.hand_over()
