"""The mixed model against histories whose cells and speeds are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from control_service.core.machine_speed import BLOCK_STEPS, Looks, MachineSpeed

FloatArray = npt.NDArray[np.float64]
LEAST = 0.01


class History(NamedTuple):
    """Relative error of every step, the cell it ran, and how slow its block was."""

    error: FloatArray
    cell: npt.NDArray[np.int64]
    slowness: FloatArray


def history(
    cell_of_step: npt.NDArray[np.int64], cells: FloatArray, scatter: float, seed: int, likeness: float = 0.0
) -> History:
    """likeness: correlation of the speeds of neighbouring blocks."""
    rng = np.random.default_rng(seed)
    shocks = rng.normal(0.0, 1.0, int(len(cell_of_step) // BLOCK_STEPS) + 1)
    speeds = [shocks[0]]
    for shock in shocks[1:]:
        speeds.append(likeness * speeds[-1] + np.sqrt(1.0 - likeness**2) * shock)
    slowness = scatter * np.array(speeds)[(np.arange(len(cell_of_step)) // BLOCK_STEPS).astype(np.int64)]
    error = cells[cell_of_step] + slowness + rng.normal(0.0, 0.05, len(cell_of_step))
    return History(error, cell_of_step, slowness)


def separated(seen: History, age_weight: FloatArray | None = None, cell_count: int = 3) -> MachineSpeed:
    ones = np.ones(len(seen.error))
    ages = ones if age_weight is None else age_weight
    steps = np.arange(len(seen.error), dtype=np.float64)
    return Looks(ages, steps, seen.cell, cell_count).separate(seen.error, ones, LEAST)


def with_looks(steps: int, every: int, look_steps: int = 4) -> npt.NDArray[np.int64]:
    """Cell 0 all the time, and a look at cell 2 now and then."""
    places = np.arange(steps)
    return np.where(places % every < look_steps, 2, 0)


def test_on_a_steady_machine_a_cell_is_the_mean_of_its_samples() -> None:
    seen = history(with_looks(640, 32), np.array([0.0, 0.0, 0.3]), 0.0, 1)
    found = separated(seen)
    for cell in (0, 2):
        own = seen.error[seen.cell == cell]
        assert found.mean[cell] == pytest.approx(own.mean(), abs=0.006)
        assert found.variance[cell] == pytest.approx(0.05**2 / len(own), rel=0.6)
    assert float(np.abs(found.slowness).max()) < 0.03


def test_a_cell_that_never_ran_is_unknown_and_not_zero_by_accident() -> None:
    found = separated(history(with_looks(640, 32), np.array([0.1, 9.0, 0.3]), 0.2, 1))
    assert found.mean[1] == found.variance[1] == 0.0


@pytest.mark.parametrize(("likeness", "look_steps", "at_most"), [(0.0, 2, 0.3), (0.9, 4, 0.65)])
def test_steps_beside_it_tell_how_slow_the_machine_was(
    likeness: float, look_steps: int, at_most: float
) -> None:
    """Looks of a few steps, each at another speed: differences are much closer than means. With looks of two
    steps half of the block tells, with four, which are a whole block, only those beside it."""
    truth = np.array([0.0, 0.0, 0.3])
    by_model, by_mean = [], []
    for seed in range(30):
        seen = history(with_looks(640, 128, look_steps), truth, 0.25, seed, likeness)
        found = separated(seen)
        by_model.append(found.mean[2] - found.mean[0] - 0.3)
        by_mean.append(seen.error[seen.cell == 2].mean() - seen.error[seen.cell == 0].mean() - 0.3)
        assert np.corrcoef(found.slowness, seen.slowness)[0, 1] > 0.95
    assert np.std(by_model) < at_most * np.std(by_mean)


def test_many_samples_of_one_slow_moment_count_like_one_look() -> None:
    """A length that ran alone for two blocks, slow by chance, and was looked at in few steps ever since."""
    cell = np.full(40 * 16, 0)
    cell[:32] = 2
    for block in range(4, 10):
        cell[block * 16] = 2
    seen = history(cell, np.zeros(3), 0.0, 3)
    error = seen.error.copy()
    error[:32] += 0.5
    rng = np.random.default_rng(5)
    error += np.repeat(rng.normal(0.0, 0.2, 40), 16) * (np.arange(640) >= 32)
    mean_of_samples = error[cell == 2].mean()
    found = separated(History(error, cell, error))
    assert mean_of_samples > 0.35
    assert found.mean[2] < 0.5 * mean_of_samples


@pytest.mark.parametrize("scatter", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.8])
def test_its_doubt_is_what_estimates_scatter_by(scatter: float, likeness: float) -> None:
    """Over many histories, the error of a cell in standard errors has a spread of about one."""
    z = []
    for seed in range(200):
        found = separated(history(with_looks(480, 96), np.array([0.0, 0.0, 0.2]), scatter, seed, likeness))
        z.append((found.mean[2] - 0.2) / found.variance[2] ** 0.5)
    assert 0.7 < np.std(z) < 1.3


def test_an_old_block_counts_less_as_a_whole() -> None:
    """Everything is slower by half since yesterday; blocks of many samples are no better than new ones."""
    seen = history(np.zeros(960, dtype=np.int64), np.zeros(3), 0.1, 2)
    error = seen.error + 0.5 * (np.arange(960) >= 800)
    age_weight = np.where(np.arange(960) >= 800, 1.0, 0.05)
    old, new = separated(seen._replace(error=error)), separated(seen._replace(error=error), age_weight)
    assert old.mean[0] < 0.15
    assert new.mean[0] > 0.35


def test_one_sample_alone_is_its_cell() -> None:
    one = History(np.array([0.2]), np.array([1]), np.array([0.0]))
    found = separated(one)
    assert found.mean[1] == pytest.approx(0.2)
    assert 0.0 < found.variance[1] < 1.0
