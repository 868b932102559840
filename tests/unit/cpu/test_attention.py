"""Attention kernels against a float64 reference, one query token at a time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.unit.cpu.reference import Pool, attention_row, mask_of, random_parents

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2}
DTYPES = [torch.float32, torch.bfloat16]


def extend(
    q: torch.Tensor,
    pool: Pool,
    lengths: list[int],
    counts: list[int],
    tree_mask: torch.Tensor | None = None,
    **changes: Any,
) -> torch.Tensor:
    out = torch.full_like(q, float("nan"))
    starts = [sum(counts[:i]) for i in range(len(counts))]
    options: dict[str, Any] = {
        "k_scale": 1.0,
        "v_scale": 1.0,
        "logit_cap": 0.0,
        "is_cross_attn": False,
        "sliding_window": 0,
        "sinks": None,
        "is_causal": True,
    } | changes
    torch.ops.sgl_kernel.extend_attention_cpu(
        q,
        None,
        None,
        out,
        pool.keys,
        pool.values,
        options["k_scale"],
        options["v_scale"],
        pool.table,
        torch.arange(1, len(lengths) + 1),
        torch.tensor(lengths),
        torch.tensor(counts, dtype=torch.int32),
        torch.tensor(starts, dtype=torch.int32),
        max(counts),
        q.shape[2] ** -0.5,
        options["logit_cap"],
        options["is_cross_attn"],
        options["sliding_window"],
        None,
        options["sinks"],
        tree_mask,
        options["is_causal"],
    )
    return out


def decode(
    q: torch.Tensor,
    pool: Pool,
    lengths: list[int],
    new: tuple[torch.Tensor, torch.Tensor] | None = None,
    **changes: Any,
) -> torch.Tensor:
    out = torch.full_like(q, float("nan"))
    slots = [int(pool.table[i + 1, length - 1]) for i, length in enumerate(lengths)]
    options: dict[str, Any] = {
        "logit_cap": 0.0,
        "is_cross_attn": False,
        "sliding_window": 0,
        "sinks": None,
    } | changes
    torch.ops.sgl_kernel.decode_attention_cpu(
        q,
        pool.keys,
        pool.values,
        1.0,
        1.0,
        out,
        None if new is None else new[0],
        None if new is None else new[1],
        torch.tensor(slots),
        torch.empty(0),
        pool.table,
        torch.arange(1, len(lengths) + 1),
        torch.tensor(lengths),
        q.shape[2] ** -0.5,
        options["logit_cap"],
        options["is_cross_attn"],
        options["sliding_window"],
        None,
        options["sinks"],
    )
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 32), (8, 1, 128), (2, 1, 96)])
def test_decode_equals_reference(dtype: torch.dtype, heads: int, kv_heads: int, dim: int) -> None:
    """Every head group and head dimension, lengths on both sides of the key block of 64."""
    lengths = [1, 63, 64, 65, 150]
    pool = Pool.random(lengths, kv_heads, dim, dtype)
    q = torch.randn(len(lengths), heads, dim).to(dtype)
    out = decode(q, pool, lengths)
    for i, length in enumerate(lengths):
        expected = attention_row(q[i], *pool.of(i, length), list(range(length)), dim**-0.5)
        torch.testing.assert_close(out[i].double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_writes_new_keys_before_it_reads(dtype: torch.dtype) -> None:
    """The step's own key and value come as arguments; attention must see them, the cache keep them."""
    lengths = [3, 70]
    pool = Pool.random(lengths, 2, 32, dtype)
    q, k, v = (torch.randn(2, heads, 32).to(dtype) for heads in (4, 2, 2))
    out = decode(q, pool, lengths, (k, v))
    for i, length in enumerate(lengths):
        keys, values = pool.of(i, length)
        assert torch.equal(keys[-1], k[i])
        assert torch.equal(values[-1], v[i])
        expected = attention_row(q[i], keys, values, list(range(length)), 32**-0.5)
        torch.testing.assert_close(out[i].double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_extend_equals_reference(dtype: torch.dtype) -> None:
    """Ragged: no prefix, a prefix, no tokens at all, more tokens than one work item carries."""
    lengths, counts = [5, 70, 9, 100], [5, 6, 0, 40]
    pool = Pool.random(lengths, 2, 32, dtype)
    q = torch.randn(sum(counts), 6, 32).to(dtype)
    out = extend(q, pool, lengths, counts)
    row = 0
    for i, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        for t in range(count):
            visible = list(range(length - count + t + 1))
            expected = attention_row(q[row], *pool.of(i, length), visible, 32**-0.5)
            torch.testing.assert_close(
                out[row].double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
            )
            row += 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_tree_extend_equals_reference(dtype: torch.dtype, seed: int) -> None:
    """A draft token sees the committed prefix (perhaps empty) and its ancestors, never a cousin."""
    rng = random.Random(seed)
    widths = [rng.randint(1, 20) for _ in range(3)]
    prefixes = [0, rng.randint(1, 130), 64]
    lengths = [w + p for w, p in zip(widths, prefixes, strict=True)]
    trees = [random_parents(w, rng) for w in widths]
    mask = torch.cat([mask_of(tree).flatten() for tree in trees])
    pool = Pool.random(lengths, 3, 64, dtype)
    q = torch.randn(sum(widths), 9, 64).to(dtype)
    out = extend(q, pool, lengths, widths, mask)
    row = 0
    for i, tree in enumerate(trees):
        for node in range(widths[i]):
            seen = mask_of(tree)[node].nonzero().flatten().tolist()
            visible = list(range(prefixes[i])) + [prefixes[i] + j for j in seen]
            expected = attention_row(q[row], *pool.of(i, lengths[i]), visible, 64**-0.5)
            torch.testing.assert_close(
                out[row].double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
            )
            row += 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_verified_chain_has_the_bits_of_plain_decoding(dtype: torch.dtype) -> None:
    """Why speculation changes no output: a token's row is the same alone, in a chain, and in a batch."""
    length, width = 130, 7
    pool = Pool.random([length, 33], 3, 64, dtype)
    q = torch.randn(width + 2, 9, 64).to(dtype)
    together = extend(q, pool, [length, 33], [width, 2])
    chain_mask = torch.cat([torch.ones(n, n, dtype=torch.bool).tril().flatten() for n in (width, 2)])
    assert torch.equal(together, extend(q, pool, [length, 33], [width, 2], chain_mask))
    for t in range(width):
        alone = decode(q[t : t + 1], pool, [length - width + t + 1])
        assert torch.equal(together[t], alone[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"logit_cap": 30.0}, "logit_cap=30"),
        ({"is_cross_attn": True}, "is_cross_attn"),
        ({"sliding_window": 128}, "sliding_window=128"),
        ({"sinks": torch.zeros(2)}, "sinks"),
        ({"k_scale": 0.5}, "KV scales"),
        ({"is_causal": False}, "is_causal=False"),
    ],
)
def test_unsupported_attention_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    """A feature that the kernel would silently ignore must stop it instead."""
    pool = Pool.random([4], 1, 32, torch.float32)
    with pytest.raises(RuntimeError, match=named):
        extend(torch.randn(2, 2, 32), pool, [4], [2], **changes)
    if changes.keys() & {"k_scale", "is_causal"}:
        return
    with pytest.raises(RuntimeError, match=named):
        decode(torch.randn(1, 2, 32), pool, [4], **changes)


def test_bit_packed_and_full_masks_are_refused() -> None:
    """A mask in another layout would be read as nonsense."""
    pool = Pool.random([8], 1, 32, torch.float32)
    q = torch.randn(3, 2, 32)
    with pytest.raises(RuntimeError, match="bit-packed"):
        extend(q, pool, [8], [3], torch.zeros(9, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="24 entries, one square per request takes 9"):
        extend(q, pool, [8], [3], torch.zeros(24, dtype=torch.bool))


def test_unsupported_types_and_shapes_are_refused() -> None:
    """float16, an fp8 cache, odd head dimensions, a table of another type, a sequence longer than its row."""
    pool = Pool.random([4], 1, 32, torch.float16)
    with pytest.raises(RuntimeError, match="Half"):
        decode(torch.randn(1, 2, 32).half(), pool, [4])
    pool = Pool.random([4], 1, 32, torch.float8_e4m3fn)
    with pytest.raises(RuntimeError, match="no fp8 KV cache"):
        decode(torch.randn(1, 2, 32).bfloat16(), pool, [4])
    pool = Pool.random([4], 1, 40, torch.float32)
    with pytest.raises(RuntimeError, match="head_dim=40"):
        decode(torch.randn(1, 2, 40), pool, [4])
    pool = Pool.random([4], 1, 32, torch.float32)
    with pytest.raises(RuntimeError, match="of a row of 12"):
        extend(torch.randn(1, 2, 32), pool, [13], [1])
    pool.table = pool.table.long()
    with pytest.raises(RuntimeError, match="int32 table"):
        decode(torch.randn(1, 2, 32), pool, [4])
