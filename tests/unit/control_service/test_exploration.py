"""Probes: which rival is looked at, for how long, how often, and at what cost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from control_service.core.exploration import (
    BACKOFF_START_STEPS,
    BEYOND_FIRST_STEPS,
    BEYOND_SHARE,
    BLIND_BACKOFF_S,
    PROBE_STEPS,
    Probe,
    Prober,
)
from control_service.core.forecast import BatchForecast

LENGTHS = (0, 1, 3)


def forecast(
    goodput: tuple[float, ...],
    *,
    most: tuple[float, ...] = (1.0, 1.8, 3.0),
    error: float = 0.02,
    batch_size: int = 4,
    step_s: float = 0.01,
) -> BatchForecast:
    """most: goodput of every length were every draft accepted that is not seen."""
    size = len(LENGTHS)
    log_goodput = np.log(np.array(goodput))
    return BatchForecast(
        lengths=LENGTHS,
        batch_size=batch_size,
        tokens=np.ones(size),
        seconds=np.full(size, step_s),
        log_goodput=log_goodput,
        most_log_goodput=np.tile(np.log(np.array(most)), (size, 1)),
        time_variance=np.full(size, error**2 / 2.0),
        token_variance=np.zeros(size),
        difference_variance=np.zeros((size, size)),
    )


def probes(prober: Prober, seen: BatchForecast, incumbent: int, steps: int) -> list[Probe]:
    """Every probe started in so many steps, telemetry in time."""
    idle = (index for index in range(1, steps + 1) if prober.running_at(index) is None)
    return [probe for index in idle if (probe := prober.consider(index, index - 1, 0, seen, incumbent))]


def gaps(started: list[Probe]) -> list[int]:
    return [later.first_step_index - earlier.first_step_index for earlier, later in pairwise(started)]


def test_a_rival_within_its_uncertainty_is_looked_at_ever_less_often() -> None:
    started = probes(Prober(), forecast((0.5, 0.95, 1.0), error=0.1), 2, 2_000)
    assert {probe.num_steps for probe in started} == {1}
    assert gaps(started)[:3] == [BACKOFF_START_STEPS, 2 * BACKOFF_START_STEPS, 4 * BACKOFF_START_STEPS]


def test_after_a_change_of_acceptance_nothing_waits() -> None:
    prober, seen = Prober(), forecast((0.5, 0.95, 1.0), error=0.1)
    started = probes(prober, seen, 2, 2_000)
    index = started[-1].last_step_index + 1
    assert prober.consider(index, index - 1, 0, seen, 2) is None
    prober.forget_backoffs()
    assert prober.consider(index, index - 1, 0, seen, 2) is not None


def test_a_rival_beyond_doubt_is_never_looked_at() -> None:
    assert probes(Prober(), forecast((0.5, 0.8, 1.0)), 2, 2_000) == []


def test_a_probe_costs_time_not_steps() -> None:
    """A rival that is far behind and takes six times as long is six times as dear to look at."""

    def steps_probed(seconds: float) -> int:
        seen = forecast((1.0, 0.7, 0.1), error=0.5)
        seen.seconds = np.array([0.01, seconds, 0.01])
        return sum(
            probe.last_step_index - probe.first_step_index + 1 for probe in probes(Prober(), seen, 0, 4_000)
        )

    assert steps_probed(0.06) < steps_probed(0.01) / 3


def test_from_length_0_the_shortest_length_that_could_pay_is_looked_at() -> None:
    started = probes(Prober(), forecast((1.0, 0.9, 0.4), error=0.001), 0, 2_000)
    assert {probe.num_steps for probe in started} == {1}
    assert max(gaps(started)) * 0.01 <= BLIND_BACKOFF_S + 1e-9


def test_from_length_0_nobody_looks_where_every_draft_accepted_would_hardly_pay() -> None:
    hardly = forecast((1.0, 0.6, 0.4), most=(1.0, 1.05, 1.05), error=0.001)
    assert probes(Prober(), hardly, 0, 2_000) == []
    hardly = forecast((1.0, 0.6, 0.4), most=(1.0, 1.05, 1.5), error=0.001)
    assert {probe.num_steps for probe in probes(Prober(), hardly, 0, 2_000)} == {1}


def test_from_length_0_a_price_in_doubt_is_no_reason_not_to_look() -> None:
    """What it is judged by may have been paid in a slow moment, and only a look can tell."""
    doubtful = forecast((1.0, 0.6, 0.4), most=(1.0, 0.98, 0.7), error=0.2)
    assert {probe.num_steps for probe in probes(Prober(), doubtful, 0, 2_000)} == {1}


def test_a_length_beyond_what_is_seen_is_looked_at_however_little_is_thought_of_it() -> None:
    """The drafts that it adds were rejected in another load: nothing since has told of them."""
    seen = forecast((0.8, 1.0, 0.85), error=0.001)
    started = probes(Prober(), seen, 1, 10_000)
    assert {probe.num_steps for probe in started} == {3}
    assert started[0].first_step_index > BEYOND_FIRST_STEPS
    lost_steps = 4 * (1.0 - 0.85) * len(started)
    assert 0.5 * BEYOND_SHARE < lost_steps / 10_000 < 1.5 * BEYOND_SHARE
    hopeless = forecast((0.8, 1.0, 0.85), most=(0.8, 1.0, 1.05), error=0.001)
    assert probes(Prober(), hopeless, 1, 10_000) == []


def test_where_steps_are_slow_the_first_probe_waits_for_its_budget() -> None:
    def first(step_s: float) -> int:
        return probes(Prober(), forecast((1.0, 0.7, 0.1), error=0.5, step_s=step_s), 0, 4_000)[
            0
        ].first_step_index

    assert first(0.01) == 1
    assert first(0.1) > 1


def test_from_length_0_a_length_that_is_ahead_is_looked_at_again_at_once() -> None:
    """Ahead within the uncertainty: only more of its drafts can tell, and they cost nothing."""
    ahead = forecast((1.0, 1.02, 0.4), error=0.1)
    assert gaps(probes(Prober(), ahead, 0, 60))[:3] == [4, 4, 4]
    # Where another length runs its own drafts tell too, and the back-off holds.
    assert gaps(probes(Prober(), forecast((0.5, 1.02, 1.0), error=0.1), 2, 200))[0] == BACKOFF_START_STEPS


def test_a_large_batch_needs_one_step_to_tell_a_small_one_several() -> None:
    def steps(batch_size: int) -> int:
        seen = forecast((1.0, 0.7, 0.4), error=0.001, batch_size=batch_size)
        probe = probes(Prober(), seen, 0, 1)[0]
        return probe.last_step_index - probe.first_step_index + 1

    assert [steps(size) for size in (1, 4, 16, 128)] == [PROBE_STEPS, 4, 1, 1]


def test_no_second_probe_before_the_first_is_told_of() -> None:
    prober, seen = Prober(), forecast((0.5, 1.05, 1.0))
    assert prober.consider(1, 0, 0, seen, 2) is not None
    assert all(prober.consider(index, 0, 0, seen, 2) is None for index in range(6, 100))
    assert prober.consider(100, 99, 0, seen, 2) is not None
