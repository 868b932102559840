"""What a length costs, and how fast the machine was: told apart.

Clocks and neighbours move a machine's speed, and steps of the same few (a block) share it whatever their
length. So many samples of one slow moment say little of the length that ran in it, and steps of other
lengths there say how slow it was. This is a mixed model, error = cell + block + noise, with cells fixed and
blocks random; blocks are alike, the more the closer they are (a first-order autoregression). Cells are
estimated by Henderson's equations with the blocks eliminated, the variances by the method of moments for
unbalanced classes (Searle, Casella, McCulloch, Variance Components, 1992, ch. 3, 7).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import solveh_banded

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BLOCK_STEPS = 4.0
BLOCKS_MAX = 4_096
# Of the first few blocks nobody can tell how much blocks scatter: begin with this share of a step's variance,
# believed as much as so many blocks.
PRIOR_SCATTER_SHARE = 0.5
PRIOR_BLOCKS = 2.0
# So alike are neighbouring blocks believed to be, as much as so many pairs of them would say it.
PRIOR_LIKENESS = 0.5
PRIOR_NEIGHBOURS = 8.0
LIKENESS_MAX = 0.95
# A machine is never perfectly steady: blocks scatter by this share of a step's variance at the least.
SCATTER_SHARE_MIN = 1e-4
# Relative to what is usual; beyond it is another machine.
SCATTER_MAX = 1.0
SLOWNESS_MAX = 0.8


class MachineSpeed(NamedTuple):
    """All relative. mean: [cells] error of every cell at the machine's usual speed; variance: [cells] of that
    mean; both 0 without samples. slowness: [n] how much slower than usual the machine was at each sample."""

    mean: FloatArray
    variance: FloatArray
    slowness: FloatArray


class Looks:
    """Which cells ran in which blocks, of samples [n]; `separate` may be asked of it again and again."""

    def __init__(
        self, age_weight: FloatArray, taken_at_steps: FloatArray, cell: IntArray, cell_count: int
    ) -> None:
        """age_weight: [n] > 0, how much a sample counts today. taken_at_steps: [n] from anywhere, but from
        the same at every fit, or blocks would not stay the same. cell: [n] in 0..cell_count - 1."""
        block = (taken_at_steps // BLOCK_STEPS).astype(np.int64)
        self._cell_count = cell_count
        self._cells, of_cell = _numbered(cell)
        blocks, self._of_block = _numbered(np.minimum(block.max() - block, BLOCKS_MAX))
        self._apart = np.diff(blocks)
        # Pairs of a block and a cell that ran in it: few of all there could be, and sums over them need no
        # BLAS, whose threads would wait for a core that the engine has.
        pairs, self._pair = _numbered(self._of_block * len(self._cells) + of_cell)
        self._row, self._column = np.divmod(pairs, len(self._cells))
        self._shape = (len(blocks), len(self._cells))
        # A block ages as a whole: an old one of many samples is still one look at the machine.
        self._today = np.bincount(self._of_block, age_weight) / np.bincount(self._of_block)

    def separate(self, error: FloatArray, weight: FloatArray, least: float) -> MachineSpeed:
        """Tell cells from blocks. error: [n] relative; weight: [n] > 0, how far a sample is believed.

        least: a step scatters by no less about its block, relative.
        """
        row, column, today = self._row, self._column, self._today
        believed, total = _sums(self._pair, weight), _sums(self._pair, weight * error)
        pairs = _Pairs(column, today[row], believed, total, _sums(self._pair, weight**2))
        residual = error - (total / believed)[self._pair]
        within = float((weight * today[self._of_block] * residual**2).sum())
        usual = _sums(column, today[row] * total) / _sums(column, today[row] * believed)
        noise, scatter = _variances(pairs, usual, within)
        noise = max(noise, least**2)
        scatter = max(scatter, SCATTER_SHARE_MIN * noise)
        in_block = _sums(row, believed)
        unusual = np.bincount(row, total - believed * usual[column]) / in_block
        likeness = _likeness(unusual, today, self._apart, scatter)
        # An old block tells less, so all of it counts by the root of its weight: its error, and its speed.
        root = np.sqrt(today)
        counted = root[row] * believed
        looks = sparse.csr_array((counted, (row, column)), shape=self._shape)
        # As LAPACK wants it, or it would be copied.
        known = np.zeros((len(root), len(self._cells) + 1), order="F")
        known[row, column] = counted
        known[:, -1] = root * np.bincount(row, total)
        solved = _solved(in_block, noise / scatter, likeness**self._apart, known)
        of_blocks = looks.T @ solved
        precision = np.diag(np.bincount(column, today[row] * believed)) - of_blocks[:, :-1]
        inverse = np.linalg.inv(precision)
        found = inverse @ (np.bincount(column, today[row] * total) - of_blocks[:, -1])
        speed = (solved * np.append(-found, 1.0)).sum(axis=1) / root
        slowness = np.clip(speed, -SLOWNESS_MAX, SLOWNESS_MAX)
        mean, variance = np.zeros(self._cell_count), np.zeros(self._cell_count)
        mean[self._cells] = found
        variance[self._cells] = noise * np.diag(inverse)
        return MachineSpeed(mean, variance, slowness[self._of_block])


class _Pairs(NamedTuple):
    """A block and a cell that ran in it; [pairs]. today: how much the block counts; weight, total, squares:
    sums of weight, weight * error and weight²."""

    cell: IntArray
    today: FloatArray
    weight: FloatArray
    total: FloatArray
    squares: FloatArray


def _sums(of: IntArray, values: FloatArray) -> FloatArray:
    return np.asarray(np.bincount(of, values), dtype=np.float64)


def _numbered(values: IntArray) -> tuple[IntArray, IntArray]:
    """The different values in order, and the place of each among them; small values, so without sorting."""
    different = np.flatnonzero(np.bincount(values))
    place = np.zeros(int(different[-1]) + 1, dtype=np.int64)
    place[different] = np.arange(len(different))
    return different, place[values]


def _variances(pairs: _Pairs, usual: FloatArray, within: float) -> tuple[float, float]:
    """Of a step about its block, and of a block about what is usual.

    usual: [cells] mean error of each; within: sum of today * weight * (error less the mean of its pair)².
    """
    own = pairs.squares / pairs.weight
    counted = pairs.today * pairs.weight
    in_cell = np.bincount(pairs.cell, counted)
    between = float((counted * (pairs.total / pairs.weight - usual[pairs.cell]) ** 2).sum())
    freedom = float((pairs.today * (pairs.weight - own)).sum())
    # What `between` is expected to be: so many variances of a step, and so many of a block.
    shared_steps = np.bincount(pairs.cell, pairs.today**2 * pairs.squares) / in_cell
    of_steps = float((pairs.today * own).sum() - shared_steps.sum())
    of_blocks = float((in_cell - np.bincount(pairs.cell, counted**2) / in_cell).sum())
    if freedom <= 1e-9:
        noise = between / max(of_steps + PRIOR_SCATTER_SHARE * of_blocks, 1.0)
    else:
        noise = within / freedom
    excess = max(between - noise * of_steps, 0.0) / of_blocks if of_blocks > 1e-9 else 0.0
    prior = PRIOR_SCATTER_SHARE * noise
    scatter = (excess * of_steps + prior * PRIOR_BLOCKS) / (of_steps + PRIOR_BLOCKS)
    return noise, min(scatter, SCATTER_MAX)


def _likeness(unusual: FloatArray, today: FloatArray, apart: IntArray, scatter: float) -> float:
    """Correlation of the speeds of neighbouring blocks.

    unusual: [blocks] mean error of each, less what its cells usually have; today: [blocks] how much each
    counts; apart: [blocks - 1] how far each is from the next, 1 for neighbours.
    """
    first = np.flatnonzero(apart == 1)
    counted = np.sqrt(today[first] * today[first + 1])
    seen = float((counted * unusual[first] * unusual[first + 1]).sum()) / scatter
    # Where blocks scatter less than their few steps do, a pair of them tells little.
    heard = min(scatter / max(float(np.average(unusual**2, weights=today)), 1e-12), 1.0) ** 2
    pairs = float(counted.sum()) * heard
    likeness = (seen * heard + PRIOR_NEIGHBOURS * PRIOR_LIKENESS) / (pairs + PRIOR_NEIGHBOURS)
    return min(max(likeness, 0.0), LIKENESS_MAX)


def _solved(in_block: FloatArray, ratio: float, likeness: FloatArray, known: FloatArray) -> FloatArray:
    """The blocks' equations for every column of `known` [blocks, columns], which is overwritten.

    in_block: [blocks] samples of each; ratio: of a step's variance to a block's; likeness: [blocks - 1] of
    each block and the next. The inverse of an autoregression's covariance has three diagonals.
    """
    bond = likeness / (1.0 - likeness**2)
    own = np.ones(len(in_block))
    own[1:] += bond * likeness
    own[:-1] += bond * likeness
    upper = np.zeros((2, len(in_block)))
    upper[0, 1:] = -ratio * bond
    upper[1] = in_block + ratio * own
    if len(in_block) == 1:
        # LAPACK's solver of three diagonals refuses a single one.
        return np.asarray(known / upper[1])
    return np.asarray(solveh_banded(upper, known, overwrite_ab=True, overwrite_b=True, check_finite=False))
