"""Runs a plan, in this process or over several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from control_service.replay.metrics import RunResult
from control_service.replay.plan import Plan, Unit, run_unit

# What a worker process works on; set once as it starts, so that tasks are small.
_adopted: list[Plan] = []


def run_plan(plan: Plan, workers: int) -> Iterator[tuple[Unit, RunResult]]:
    """Every unit's result as it is done, in any order."""
    if workers <= 1:
        for unit in plan.units:
            yield unit, run_unit(plan, unit)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _adopt, (plan,)) as pool:
        pending = {pool.submit(_run_adopted, unit): unit for unit in plan.units}
        try:
            for done in as_completed(pending):
                yield pending[done], done.result()
        finally:
            for future in pending:
                future.cancel()


def _adopt(plan: Plan) -> None:
    _adopted[:] = [plan]


def _run_adopted(unit: Unit) -> RunResult:
    return run_unit(_adopted[0], unit)
