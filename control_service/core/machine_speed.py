"""What a length costs, and how fast the machine was: told apart.

Clocks and neighbours move a machine's speed, and steps of the same few (a block) share it whatever their
length. So many samples of one slow moment say little of the length that ran in it, and steps of other
lengths there say how slow it was. This is a mixed model, error = cell + block + noise, with cells fixed and
blocks random; cells are estimated by Henderson's equations with the blocks eliminated, the variances by the
method of moments for unbalanced classes (Searle, Casella, McCulloch, Variance Components, 1992, ch. 3, 7).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BLOCK_STEPS = 16.0
BLOCKS_MAX = 4_096
# Of the first few blocks nobody can tell how much blocks scatter: begin with this share of a step's variance,
# believed as much as so many blocks.
PRIOR_SCATTER_SHARE = 0.5
PRIOR_BLOCKS = 2.0
# Relative to what is usual; beyond it is another machine.
SCATTER_MAX = 1.0
SLOWNESS_MAX = 0.8


class MachineSpeed(NamedTuple):
    """All relative. mean: [cells] error of every cell at the machine's usual speed; variance: [cells] of that
    mean; both 0 without samples. slowness: [n] how much slower than usual the machine was at each sample."""

    mean: FloatArray
    variance: FloatArray
    slowness: FloatArray


def separate(
    error: FloatArray,
    weight: FloatArray,
    age_weight: FloatArray,
    taken_at_steps: FloatArray,
    cell: IntArray,
    cell_count: int,
    least: float,
) -> MachineSpeed:
    """Tell cells from blocks. Samples [n]: error, relative; weight > 0, how far it is believed;
    age_weight > 0, how much it counts today; taken_at_steps, from anywhere, but from the same at every fit,
    or blocks would not stay the same; cell.

    least: a step scatters by no less about its block, relative.
    """
    block = (taken_at_steps // BLOCK_STEPS).astype(np.int64)
    cells, of_cell = _numbered(cell)
    blocks, of_block = _numbered(np.minimum(block.max() - block, BLOCKS_MAX))
    shape = (len(blocks), len(cells))
    pair = of_block * len(cells) + of_cell

    def by_pair(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(pair, values, shape[0] * shape[1]), dtype=np.float64).reshape(shape)

    # A block ages as a whole: an old one of many samples is still one look at the machine.
    today = np.bincount(of_block, age_weight) / np.bincount(of_block)
    count, total = by_pair(weight), by_pair(weight * error)
    residual = error - (total / np.maximum(count, 1e-12)).ravel()[pair]
    within = float((weight * today[of_block] * residual**2).sum())
    noise, scatter = _variances(count, total, by_pair(weight**2), today[:, None], within)
    noise = max(noise, least**2)
    # What a block's samples share counts once: the more of them, the less each one says.
    shared = scatter / (noise + scatter * count.sum(axis=1))
    of_blocks = total.sum(axis=1)
    precision = np.diag(today @ count) - (count * (today * shared)[:, None]).T @ count
    inverse = np.linalg.inv(precision)
    found = inverse @ (today @ total - (count * (today * shared)[:, None]).T @ of_blocks)
    slowness = np.clip(shared * (of_blocks - count @ found), -SLOWNESS_MAX, SLOWNESS_MAX)
    mean, variance = np.zeros(cell_count), np.zeros(cell_count)
    mean[cells] = found
    variance[cells] = noise * np.diag(inverse)
    return MachineSpeed(mean, variance, slowness[of_block])


def _numbered(values: IntArray) -> tuple[IntArray, IntArray]:
    """The different values in order, and the place of each among them; small values, so without sorting."""
    different = np.flatnonzero(np.bincount(values))
    place = np.zeros(int(different[-1]) + 1, dtype=np.int64)
    place[different] = np.arange(len(different))
    return different, place[values]


def _variances(
    count: FloatArray, total: FloatArray, squares: FloatArray, today: FloatArray, within: float
) -> tuple[float, float]:
    """Of a step about its block, and of a block about what is usual. count, total, squares: [blocks, cells]
    sums of weight, weight * error and weight²; today: [blocks, 1] how much a block counts; within: sum of
    today * weight * (error less the mean of its pair)²."""
    own = squares / np.maximum(count, 1e-12)
    counted = today * count
    in_cell = counted.sum(axis=0)
    usual = (today * total).sum(axis=0) / in_cell
    between = float((counted * (total / np.maximum(count, 1e-12) - usual) ** 2).sum())
    freedom = float((today * (count - own)).sum())
    # What `between` is expected to be: so many variances of a step, and so many of a block.
    of_steps = float((today * own).sum() - ((today**2 * squares).sum(axis=0) / in_cell).sum())
    of_blocks = float((in_cell - (counted**2).sum(axis=0) / in_cell).sum())
    if freedom <= 1e-9:
        noise = between / max(of_steps + PRIOR_SCATTER_SHARE * of_blocks, 1.0)
    else:
        noise = within / freedom
    excess = max(between - noise * of_steps, 0.0) / of_blocks if of_blocks > 1e-9 else 0.0
    prior = PRIOR_SCATTER_SHARE * noise
    scatter = (excess * of_steps + prior * PRIOR_BLOCKS) / (of_steps + PRIOR_BLOCKS)
    return noise, min(scatter, SCATTER_MAX)
