"""Bounds: lengths chosen with knowledge that nobody has online."""

from __future__ import annotations

import numpy as np

from control_service.replay.engine import Committed
from control_service.replay.loop import Launch, Verdict, World


class FixedLength:
    """The same length, always."""

    def __init__(self, num_steps: int) -> None:
        self._verdict = Verdict(num_steps, "fixed")

    def decide(self, launch: Launch) -> Verdict:
        """See Controller."""
        return self._verdict

    def ended(self, launch: Launch, num_steps: int, duration_s: float, committed: Committed) -> None:
        """Nothing to learn."""


class Clairvoyant:
    """Knows what this step would commit and take (but for noise) with every length; greedy.

    One length for the whole batch, the one with the most tokens a second of this step.
    """

    def __init__(self, world: World, candidates: tuple[int, ...]) -> None:
        self._times = world.times
        self._candidates = candidates

    def decide(self, launch: Launch) -> Verdict:
        """See Controller."""
        most = np.minimum(launch.entries, launch.tokens_left)
        batch, context = float(launch.batch_size), float(launch.context_tokens)
        rates = [
            float(np.minimum(most, length + 1).sum()) / self._times.seconds(batch, length, context)
            for length in self._candidates
        ]
        return Verdict(self._candidates[int(np.argmax(rates))], "clairvoyant")

    def ended(self, launch: Launch, num_steps: int, duration_s: float, committed: Committed) -> None:
        """Nothing to learn."""


class PerfectModels:
    """Knows the average acceptance and the step times exactly, and nothing of a single step.

    What is left between this and the best fixed length is what any policy of averages can gain,
    or cannot reach.
    """

    def __init__(self, world: World, candidates: tuple[int, ...]) -> None:
        self._world = world
        self._candidates = candidates

    def decide(self, launch: Launch) -> Verdict:
        """See Controller."""
        world = self._world
        batch, context = float(launch.batch_size), float(launch.context_tokens)
        rates = [
            sum(
                count * world.source.mean_tokens(group, length, launch.now_s)
                for group, count in enumerate(launch.group_counts.tolist())
                if count
            )
            / world.times.seconds(batch, length, context)
            for length in self._candidates
        ]
        return Verdict(self._candidates[int(np.argmax(rates))], "perfect_models")

    def ended(self, launch: Launch, num_steps: int, duration_s: float, committed: Committed) -> None:
        """Nothing to learn."""
