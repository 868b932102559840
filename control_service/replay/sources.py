"""What the target would accept: requests, and the tokens a step would commit for each of them.

An *entry* is the number of tokens that a step starting at an output position commits with
unlimited speculation (accepted drafts + 1). A step of length k commits
min(k + 1, entry, tokens left); the position moves on by that.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SYNTHETIC_REQUESTS = 256
ENTRY_MAX = 65


class AcceptanceSource(Protocol):
    """Requests in groups (one a trace), and what would be accepted of them.

    prompt_tokens, output_tokens: [R] of every request.
    groups: for each group the requests in it, as indices into those.
    """

    @property
    def prompt_tokens(self) -> IntArray: ...

    @property
    def output_tokens(self) -> IntArray: ...

    @property
    def groups(self) -> tuple[IntArray, ...]: ...

    @property
    def changes_s(self) -> tuple[float, ...]:
        """When average acceptance changes; in between it is constant."""
        ...

    @property
    def watched_s(self) -> tuple[float, ...]:
        """Those of the changes whose recovery is of interest."""
        ...

    def entries(
        self, requests: IntArray, positions: IntArray, now_s: float, random: np.random.Generator
    ) -> IntArray:
        """The entry of each request ([B]) at its position; at least 1."""
        ...

    def mean_tokens(self, group: int, num_steps: int, now_s: float) -> float:
        """Tokens a request and step that a length commits on average, over the whole group."""
        ...


class RequestTrace(NamedTuple):
    """One request with one drafter; `entries` has a value for every output position."""

    prompt_tokens: int
    entries: tuple[int, ...]


@dataclass(frozen=True)
class TraceSource:
    """Acceptance as it was measured: one group a trace."""

    traces: tuple[tuple[RequestTrace, ...], ...]

    @cached_property
    def _requests(self) -> list[RequestTrace]:
        return [request for trace in self.traces for request in trace]

    @cached_property
    def _flat(self) -> IntArray:
        return np.concatenate([np.array(request.entries, dtype=np.int64) for request in self._requests])

    @cached_property
    def _start(self) -> IntArray:
        return np.cumsum(self.output_tokens) - self.output_tokens

    @cached_property
    def prompt_tokens(self) -> IntArray:
        """[R]"""
        return np.array([request.prompt_tokens for request in self._requests], dtype=np.int64)

    @cached_property
    def output_tokens(self) -> IntArray:
        """[R]"""
        return np.array([len(request.entries) for request in self._requests], dtype=np.int64)

    @property
    def changes_s(self) -> tuple[float, ...]:
        """Never: a trace has one average."""
        return ()

    @property
    def watched_s(self) -> tuple[float, ...]:
        """None."""
        return ()

    @cached_property
    def groups(self) -> tuple[IntArray, ...]:
        """One a trace."""
        edges = np.cumsum([len(trace) for trace in self.traces])[:-1]
        return tuple(np.split(np.arange(len(self._requests)), edges))

    def entries(
        self, requests: IntArray, positions: IntArray, now_s: float, random: np.random.Generator
    ) -> IntArray:
        """See AcceptanceSource; the trace knows, nothing is drawn."""
        entries: IntArray = self._flat[self._start[requests] + positions]
        return entries

    def mean_tokens(self, group: int, num_steps: int, now_s: float) -> float:
        """See AcceptanceSource: every request of the trace walked once with this length."""
        return self._mean_tokens[group][num_steps]

    @cached_property
    def _mean_tokens(self) -> tuple[dict[int, float], ...]:
        return tuple(_Walks(self, group) for group in self.groups)


class _Walks(dict[int, float]):
    """Mean tokens a step by length, each walked when first asked for."""

    def __init__(self, source: TraceSource, group: IntArray) -> None:
        super().__init__()
        self._source = source
        self._group = group

    def __missing__(self, num_steps: int) -> float:
        source, requests = self._source, self._group
        steps, tokens = 0, int(source.output_tokens[requests].sum())
        positions = np.zeros_like(requests)
        nothing = np.random.default_rng(0)
        while requests.size:
            entries = source.entries(requests, positions, 0.0, nothing)
            steps += requests.size
            positions = positions + np.minimum(entries, num_steps + 1)
            going = positions < source.output_tokens[requests]
            requests, positions = requests[going], positions[going]
        self[num_steps] = tokens / steps
        return self[num_steps]


class AcceptanceSpan(NamedTuple):
    """Conditional acceptance by position for a while; positions beyond the last are like the last."""

    rates: tuple[float, ...]
    seconds: float

    def survival(self, positions: int) -> FloatArray:
        """[positions] P(all of positions 1..j accepted)."""
        rates = (*self.rates, *[self.rates[-1]] * (positions - len(self.rates)))
        return np.cumprod(rates[:positions]).astype(np.float64)


class RequestSizes(NamedTuple):
    """Ranges, both ends included, from which requests are drawn evenly: so that they do not end together."""

    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]


SYNTHETIC_SIZES = RequestSizes((64, 512), (96, 384))


@dataclass(frozen=True)
class SyntheticSource:
    """Acceptance by position, independent between steps and requests; of its spans the last one stays.

    watched_s: the changes whose recovery is of interest.
    """

    spans: tuple[AcceptanceSpan, ...]
    sizes: RequestSizes = SYNTHETIC_SIZES
    watched_s: tuple[float, ...] = ()

    @cached_property
    def prompt_tokens(self) -> IntArray:
        """[R]"""
        return _evenly(self.sizes.prompt_tokens, seed=1)

    @cached_property
    def output_tokens(self) -> IntArray:
        """[R]"""
        return _evenly(self.sizes.output_tokens, seed=2)

    @property
    def groups(self) -> tuple[IntArray, ...]:
        """All in one."""
        return (np.arange(SYNTHETIC_REQUESTS),)

    @cached_property
    def changes_s(self) -> tuple[float, ...]:
        """Where one span gives way to the next."""
        return tuple(accumulate(span.seconds for span in self.spans[:-1]))

    @cached_property
    def _survival(self) -> list[FloatArray]:
        return [span.survival(ENTRY_MAX - 1) for span in self.spans]

    def entries(
        self, requests: IntArray, positions: IntArray, now_s: float, random: np.random.Generator
    ) -> IntArray:
        """See AcceptanceSource: as many drafts as positions whose survival is above a random number."""
        survival = self._survival[bisect_right(self.changes_s, now_s)]
        drafts = np.searchsorted(-survival, -random.random(requests.size))
        return 1 + drafts.astype(np.int64)

    def mean_tokens(self, group: int, num_steps: int, now_s: float) -> float:
        """See AcceptanceSource; the sum of the survival, the ends of requests left out."""
        return 1.0 + float(self._survival[bisect_right(self.changes_s, now_s)][:num_steps].sum())


@dataclass(frozen=True)
class MutedSource:
    """Another source, of which nothing is accepted until a time."""

    source: AcceptanceSource
    until_s: float

    @property
    def prompt_tokens(self) -> IntArray:
        """[R]"""
        return self.source.prompt_tokens

    @property
    def output_tokens(self) -> IntArray:
        """[R]"""
        return self.source.output_tokens

    @property
    def groups(self) -> tuple[IntArray, ...]:
        """The source's."""
        return self.source.groups

    @property
    def changes_s(self) -> tuple[float, ...]:
        """When it is no longer muted; the source must have no changes of its own."""
        return (self.until_s,)

    @property
    def watched_s(self) -> tuple[float, ...]:
        """The same."""
        return (self.until_s,)

    def entries(
        self, requests: IntArray, positions: IntArray, now_s: float, random: np.random.Generator
    ) -> IntArray:
        """See AcceptanceSource."""
        if now_s < self.until_s:
            return np.ones_like(requests)
        return self.source.entries(requests, positions, now_s, random)

    def mean_tokens(self, group: int, num_steps: int, now_s: float) -> float:
        """See AcceptanceSource."""
        return 1.0 if now_s < self.until_s else self.source.mean_tokens(group, num_steps, now_s)


def _evenly(bounds: tuple[int, int], seed: int) -> IntArray:
    return np.random.default_rng(seed).integers(bounds[0], bounds[1] + 1, SYNTHETIC_REQUESTS)
