"""Does a record carry the length that its step really ran with? Pure.

Under overlap scheduling a step's result reaches the host after the next step was launched, perhaps with
another length. With every draft accepted by decree, the number of accepted drafts is the length that ran: a
record that was credited with its neighbour's length does not fit it.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.results import Record
from turbospec.v1.admin_pb2 import ObservedStep


class Crediting(Record):
    """Steps that were checked, those of them whose length had just changed, and those that did not fit."""

    steps: int
    changes: int
    wrong_steps: list[int]

    @property
    def faults(self) -> list[str]:
        """Why this shows a defect, or nothing at all."""
        faults = []
        if self.wrong_steps:
            faults.append(f"{len(self.wrong_steps)} of {self.steps} records carry a length that did not run")
        if not self.changes:
            faults.append("no length changed, so nothing was shown")
        return faults


def check_crediting(steps: Iterable[ObservedStep]) -> Crediting:
    """Every request of a step must have accepted exactly as many drafts as the record says were run."""
    checked = changes = 0
    wrong: list[int] = []
    for step in steps:
        checked += 1
        changes += step.previous_num_steps not in (-1, step.num_steps)
        if any(count != step.num_steps for count in step.accepted_drafts):
            wrong.append(step.step_index)
    return Crediting(steps=checked, changes=changes, wrong_steps=wrong)
