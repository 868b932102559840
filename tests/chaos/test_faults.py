"""Every fault in short, against the real service and the real plugin client: never worse than length 0.

The numbers are for `make chaos` to report; here it is asserted that the engine goes on, that no lie is
obeyed, that every step and every record is accounted for, and that control comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.chaos.experiment import Plan, run
from tests.chaos.fault import Fault
from tests.chaos.faults import FAULTS
from tests.chaos.stage import Stage
from tests.chaos.verdict import failures

SHORT = Plan(quiet_steps=50, stretch=0.3)
IN_SHORT = [fault for fault in FAULTS if fault.short_form]


class Stages:
    """One stage at a time, shared by faults that follow each other."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._stage: Stage | None = None

    def get(self, kind: type[Stage]) -> Stage:
        if type(self._stage) is not kind:
            self.close()
            self._stage = self._open.enter_context(kind())
        assert self._stage is not None
        return self._stage

    def close(self) -> None:
        self._stage = None
        self._open.close()


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    made = Stages()
    yield made
    made.close()


@pytest.mark.parametrize("fault", IN_SHORT, ids=lambda fault: fault.name)
def test_the_engine_survives(fault: Fault[Any], stages: Stages) -> None:
    outcome = run(fault, stages.get(fault.stage), SHORT)
    wrong = failures(outcome, fault)
    if wrong:
        stages.close()
    assert not wrong, f"{fault.does}: {outcome}"
