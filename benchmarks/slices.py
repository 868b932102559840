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


@dataclass(slots=True)
class Decoded:
    """Decode steps taken together."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, step: Step) -> None:
        self.tokens += step.tokens_total
        self.seconds += step.seconds


@dataclass(slots=True)
class Served:
    """What one request got from one variant."""

    tokens: float = 0.0
    seconds: float = 0.0
    steps: int = 0


@dataclass(slots=True)
class SliceStats:
    """One variant's slices in one cell.

    server: the variant whose server played it. parts: by start and part. itl_s: every step, for each request
    in it. requests: by start and number.
    """

    server: str
    parts: dict[tuple[int, int], Decoded] = field(default_factory=lambda: defaultdict(Decoded))
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
            part = one.parts[start, slice_.sweep * PARTS // sweeps]
            for step in slice_.steps:
                part.add(step)
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


def step_time_ratio(slices: Sequence[Slice], variant: str) -> tuple[float, list[float]] | None:
    """A step of `variant` over one of the other variants of its server, in seconds: the whole, and its parts.

    Steps of equal batch size and length only, weighted by how many of them `variant` had; None if it had none
    in common with the others. What is left is what deciding costs a step, whoever pays for it.
    """
    server = next((one.server for one in slices if one.variant == variant), None)
    parts: dict[tuple[int, int], list[Slice]] = defaultdict(list)
    for start in {one.start for one in slices}:
        mine = [one for one in slices if (one.start, one.server) == (start, server)]
        sweeps = 1 + max((one.sweep for one in mine), default=0)
        for one in mine:
            parts[start, one.sweep * PARTS // sweeps].append(one)
    whole = _log_ratio([one for mine in parts.values() for one in mine], variant)
    ratios = [_log_ratio(mine, variant) for mine in parts.values()]
    if whole is None:
        return None
    return math.exp(whole), [math.exp(ratio) for ratio in ratios if ratio is not None]


def _log_ratio(slices: Iterable[Slice], variant: str) -> float | None:
    seconds: dict[bool, dict[tuple[int, int], list[float]]] = {
        own: defaultdict(list) for own in (True, False)
    }
    for slice_ in slices:
        for step in slice_.steps:
            seconds[slice_.variant == variant][_kind(step)].append(step.seconds)
    own, others = seconds[True], seconds[False]
    shared = own.keys() & others.keys()
    count = sum(len(own[kind]) for kind in shared)
    if not count:
        return None
    return sum(
        len(own[kind]) / count * math.log(statistics.fmean(own[kind]) / statistics.fmean(others[kind]))
        for kind in shared
    )


def _mean_tokens(steps: Iterable[Step]) -> Mapping[tuple[int, int], float]:
    tokens: dict[tuple[int, int], float] = defaultdict(float)
    requests: dict[tuple[int, int], int] = defaultdict(int)
    for step in steps:
        tokens[_kind(step)] += step.tokens_total
        requests[_kind(step)] += len(step.tokens)
    return {kind: tokens[kind] / requests[kind] for kind in tokens if requests[kind]}


def _kind(step: Step) -> tuple[int, int]:
    return len(step.tokens), step.num_steps
