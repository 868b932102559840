"""The service benchmark against the real service: what it counts must add up, however long it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.service.cores import Cores
from benchmarks.service.results import Asking, Trial
from benchmarks.service.trial import TrialPlan, run_trial

ENGINES = 3


def plan(tmp_path: Path, batch_size: int) -> TrialPlan:
    return TrialPlan(batch_size=batch_size, warmup_s=1.0, directory=tmp_path, cores=Cores.of_this_machine())


def nothing_was_lost(trial: Trial) -> bool:
    return not (trial.spans_rejected or trial.spans_dropped or trial.spans_uncounted or trial.streams_broken)


@pytest.mark.parametrize("asking", list(Asking))
async def test_every_step_of_a_trial_is_counted_by_the_service(asking: Asking, tmp_path: Path) -> None:
    trial = await run_trial(plan(tmp_path, 16), asking, ENGINES, 1.5)
    assert nothing_was_lost(trial)
    assert not trial.leases_refused
    assert trial.steps > 0
    requests = trial.decisions_per_s * trial.seconds
    if asking is Asking.EVERY_STEP:
        assert requests >= trial.steps / 2, "a slow machine may answer only the newest request"
    else:
        assert 0 < requests <= trial.steps / 4
    assert trial.service_cores > 0
    assert trial.service_rss_mib > 10
