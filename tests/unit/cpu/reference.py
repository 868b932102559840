"""What the kernels must compute, written plainly: loops, float64, one token at a time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise

import torch


def attention_row(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: list[int], scale: float
) -> torch.Tensor:
    """One token: q [heads, dim] over keys and values [tokens, kv_heads, dim]; float64 [heads, dim]."""
    heads, kv_heads = q.shape[0], keys.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64)
    for head in range(heads):
        kv = head // (heads // kv_heads)
        scores = [scale * float(q[head].double() @ keys[j, kv].double()) for j in visible]
        peak = max(scores)
        weights = [math.exp(score - peak) for score in scores]
        for weight, j in zip(weights, visible, strict=True):
            out[head] += weight / sum(weights) * values[j, kv].double()
    return out


@dataclass
class Pool:
    """A KV cache with scattered slots and the request table that leads to them."""

    keys: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor

    @classmethod
    def random(cls, lengths: list[int], kv_heads: int, dim: int, dtype: torch.dtype) -> Pool:
        width, total = max([*lengths, 1]) + 8, sum(lengths) + 16
        slots = torch.randperm(total)
        table = torch.zeros(len(lengths) + 2, width, dtype=torch.int32)
        taken = 0
        for request, length in enumerate(lengths):
            table[request + 1, :length] = slots[taken : taken + length]
            taken += length
        keys, values = (torch.randn(total, kv_heads, dim).to(dtype) for _ in range(2))
        return cls(keys, values, table)

    def of(self, request: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        slots = self.table[request + 1, :length].long()
        return self.keys[slots], self.values[slots]


def random_parents(width: int, rng: random.Random) -> list[int]:
    """A random tree of `width` nodes, parents before children; the root's parent is -1."""
    return [-1] + [rng.randrange(node) for node in range(1, width)]


def ancestors(parents: list[int], node: int) -> list[int]:
    """The path from the root to `node`, both included."""
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path[::-1]


def mask_of(parents: list[int]) -> torch.Tensor:
    """Bool [width, width]: what each node sees of the tree."""
    mask = torch.zeros(len(parents), len(parents), dtype=torch.bool)
    for node in range(len(parents)):
        mask[node, ancestors(parents, node)] = True
    return mask


def children_of(parents: list[int], node: int) -> list[int]:
    """Ascending."""
    return [child for child, parent in enumerate(parents) if parent == node]


def links_of(parents: list[int]) -> tuple[list[int], list[int]]:
    """First child and next sibling of every node, -1 where there is none."""
    first, following = [-1] * len(parents), [-1] * len(parents)
    for node in range(len(parents)):
        family = children_of(parents, node)
        if family:
            first[node] = family[0]
        for child, sibling in pairwise(family):
            following[child] = sibling
    return first, following


def greedy_path(parents: list[int], tokens: list[int], predicted: list[int]) -> list[int]:
    """The nodes that greedy verification accepts, the root first; of equal siblings the first."""
    path = [0]
    while True:
        matching = [child for child in children_of(parents, path[-1]) if tokens[child] == predicted[path[-1]]]
        if not matching:
            return path
        path.append(matching[0])
