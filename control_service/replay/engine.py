"""The engine's side: running requests, closed loop. Owns nothing of the policy's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from control_service.replay.sources import AcceptanceSource, IntArray


class Supply:
    """The next request of a group: shuffled by the seed, again each time around."""

    def __init__(self, group: IntArray, seed: np.random.SeedSequence) -> None:
        self._group = group
        self._random = np.random.default_rng(seed)
        self._queued: list[int] = []

    def take(self, count: int) -> list[int]:
        """`count` requests."""
        while len(self._queued) < count:
            self._queued.extend(self._random.permutation(self._group).tolist())
        taken, self._queued = self._queued[:count], self._queued[count:]
        return taken


class Committed(NamedTuple):
    """What a step brought; [B] each, in the order of the batch."""

    tokens: IntArray
    first_step: list[bool]
    after_full_accept: list[bool]


class Engine:
    """The batch: which requests run, and where in its output each is."""

    def __init__(self, source: AcceptanceSource, acceptance_seed: np.random.SeedSequence) -> None:
        self._source = source
        self._group_of = np.zeros(source.prompt_tokens.size, dtype=np.int64)
        for place, group in enumerate(source.groups):
            self._group_of[group] = place
        self._random = np.random.default_rng(acceptance_seed)
        self._requests = np.zeros(0, dtype=np.int64)
        self._positions = np.zeros(0, dtype=np.int64)
        self._fresh = np.zeros(0, dtype=np.bool_)
        self._full = np.zeros(0, dtype=np.bool_)

    @property
    def batch_size(self) -> int:
        """Running requests."""
        return int(self._requests.size)

    @property
    def context_tokens(self) -> int:
        """Sum of the sequence lengths, prompts included."""
        return int(self._source.prompt_tokens[self._requests].sum() + self._positions.sum())

    @property
    def group_counts(self) -> IntArray:
        """[G] running requests of each group."""
        return np.bincount(self._group_of[self._requests], minlength=len(self._source.groups))

    @property
    def tokens_left(self) -> IntArray:
        """[B] tokens until each request is finished."""
        return self._source.output_tokens[self._requests] - self._positions

    def admit(self, concurrency: int, supply: Supply, *, drain: bool) -> int:
        """Fill up to `concurrency`; returns the prompt tokens to prefill, 0 if nobody came.

        A batch above it shrinks at once, the newest leave; or as requests finish, if `drain`.
        """
        if not drain and self.batch_size > concurrency:
            self._keep(slice(0, concurrency))
        missing = concurrency - self.batch_size
        if missing <= 0:
            return 0
        taken = np.array(supply.take(missing), dtype=np.int64)
        self._requests = np.concatenate((self._requests, taken))
        self._positions = np.concatenate((self._positions, np.zeros(missing, dtype=np.int64)))
        self._fresh = np.concatenate((self._fresh, np.ones(missing, dtype=np.bool_)))
        self._full = np.concatenate((self._full, np.zeros(missing, dtype=np.bool_)))
        return int(self._source.prompt_tokens[taken].sum())

    def entries(self, now_s: float) -> IntArray:
        """[B] what this step would commit with unlimited speculation; call once a step."""
        return self._source.entries(self._requests, self._positions, now_s, self._random)

    def commit(self, num_steps: int, entries: IntArray) -> Committed:
        """Run one step: positions move on, finished requests leave."""
        left = self.tokens_left
        tokens = np.minimum(np.minimum(entries, num_steps + 1), left)
        committed = Committed(tokens, self._fresh.tolist(), self._full.tolist())
        if num_steps:
            self._full = tokens > num_steps
        self._positions = self._positions + tokens
        self._fresh[:] = False
        running = tokens < left
        if not running.all():
            self._keep(running)
        return committed

    def _keep(self, chosen: slice | np.typing.NDArray[np.bool_]) -> None:
        self._requests = self._requests[chosen]
        self._positions = self._positions[chosen]
        self._fresh = self._fresh[chosen]
        self._full = self._full[chosen]
