"""What the slices inside the schedulers come to. Pure: slices in, numbers out."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.results import Slice, Step

# Sweeps in a row are taken together into so many parts: what differs between them is the error.
PARTS: Final = 10


# Start and part.
Part = tuple[int, int]


@dataclass(slots=True)
class Served:
    """What one request got from one variant."""

    tokens: float = 0.0
    seconds: float = 0.0
    steps: int = 0


@dataclass(slots=True)
class SliceStats:
    """One variant's slices in one cell.

    server: the variant whose server played it. itl_s: every step, for each request in it. requests: by start
    and number.
    """

    server: str
    parts: dict[Part, list[Step]] = field(default_factory=lambda: defaultdict(list))
    itl_s: list[float] = field(default_factory=list)
    requests: dict[tuple[int, int], Served] = field(default_factory=lambda: defaultdict(Served))

    def tpot_s(self, least_tokens: int) -> list[float]:
        """Seconds per token of every request that got at least so many."""
        served = self.requests.values()
        return [one.seconds / one.tokens for one in served if one.tokens >= least_tokens]

    @property
    def mean_accepted_length(self) -> float | None:
        """Tokens per step and request."""
        steps = sum(one.steps for one in self.requests.values())
        return sum(one.tokens for one in self.requests.values()) / steps if steps else None


def slice_stats(slices: Iterable[Slice]) -> dict[str, SliceStats]:
    """By variant."""
    by_server: dict[tuple[int, str], list[Slice]] = defaultdict(list)
    for slice_ in slices:
        by_server[slice_.start, slice_.server].append(slice_)
    stats: dict[str, SliceStats] = {}
    for (start, server), mine in by_server.items():
        sweeps = 1 + max(slice_.sweep for slice_ in mine)
        for slice_ in mine:
            one = stats.setdefault(slice_.variant, SliceStats(server))
            one.parts[start, slice_.sweep * PARTS // sweeps] += slice_.steps
            for step in slice_.steps:
                _add(one, start, step)
    return stats


def _add(stats: SliceStats, start: int, step: Step) -> None:
    for request, tokens in step.tokens.items():
        # One that had its last token while this step was already under way is not served by it.
        if tokens:
            served = stats.requests[start, request]
            served.tokens += tokens
            served.seconds += step.seconds
            served.steps += 1
            stats.itl_s.append(step.seconds)


def evened(slices: Sequence[Slice]) -> list[Slice]:
    """The slices with the tokens of every request in a step replaced by the mean over all steps like it.

    What a step of one batch size and length commits does not depend on who chose the length: arms that ran
    the same length then differ by their time alone, and not by the luck of the text.
    """
    mean = _mean_tokens(step for slice_ in slices for step in slice_.steps)
    return [
        slice_.model_copy(
            update={
                "steps": [
                    step.model_copy(update={"tokens": dict.fromkeys(step.tokens, mean[_kind(step)])})
                    for step in slice_.steps
                ]
            }
        )
        for slice_ in slices
    ]


def step_time_ratio(stats: Mapping[str, SliceStats], variant: str) -> tuple[float, list[float]] | None:
    """A step of `variant` over one of the other variants of its server, in seconds: the whole, and its parts.

    Steps of equal batch size and length only, weighted by how many of them `variant` had; None if it had none
    in common with the others. What is left is what deciding costs a step, whoever pays for it.
    """
    if variant not in stats:
        return None
    own = stats[variant]
    others = [one for one in stats.values() if one is not own and one.server == own.server]

    # Part by part: an arm that had no more turns from some sweep on met the machine of the sweeps before.
    ratios = [
        _log_ratio(steps, [step for one in others for step in one.parts.get(part, ())])
        for part, steps in own.parts.items()
    ]
    count = sum(shared for _, shared in ratios)
    if not count:
        return None
    whole = sum(ratio * shared for ratio, shared in ratios) / count
    return math.exp(whole), [math.exp(ratio) for ratio, shared in ratios if shared]


def _log_ratio(own: Iterable[Step], others: Iterable[Step]) -> tuple[float, int]:
    """Of steps of the same kind, by how many `own` has of it; and how many it has that `others` have too."""
    seconds, other_seconds = _seconds_by_kind(own), _seconds_by_kind(others)
    shared = seconds.keys() & other_seconds.keys()
    count = sum(len(seconds[kind]) for kind in shared)
    total = sum(
        len(seconds[kind]) * math.log(statistics.fmean(seconds[kind]) / statistics.fmean(other_seconds[kind]))
        for kind in shared
    )
    return total / max(count, 1), count


def _seconds_by_kind(steps: Iterable[Step]) -> dict[tuple[int, int], list[float]]:
    seconds: dict[tuple[int, int], list[float]] = defaultdict(list)
    for step in steps:
        seconds[_kind(step)].append(step.seconds)
    return seconds


def _mean_tokens(steps: Iterable[Step]) -> Mapping[tuple[int, int], float]:
    tokens: dict[tuple[int, int], float] = defaultdict(float)
    requests: dict[tuple[int, int], int] = defaultdict(int)
    for step in steps:
        tokens[_kind(step)] += step.tokens_total
        requests[_kind(step)] += len(step.tokens)
    return {kind: tokens[kind] / requests[kind] for kind in tokens if requests[kind]}


def _kind(step: Step) -> tuple[int, int]:
    return len(step.tokens), step.num_steps
