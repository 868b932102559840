"""Trees of draft tokens: building, reading back, verifying; laws over random trees."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_patch.cpu import functions as ops
from tests.unit.cpu.reference import ancestors, greedy_path, links_of, mask_of, random_parents

trees = st.builds(
    lambda width, seed: random_parents(width, random.Random(seed)), st.integers(1, 24), st.integers(0, 10**6)
)


def empty_outputs(batch: int, width: int) -> dict[str, torch.Tensor]:
    """Outputs full of rubbish: the kernels must not lean on what they find."""
    return {
        name: torch.full((batch * width,), 77, dtype=torch.int64)
        for name in ("positions", "index", "next_token", "next_sibling")
    }


@given(batch=st.lists(trees, min_size=1, max_size=3), offset=st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_a_tree_is_read_back_from_its_mask(batch: list[list[int]], offset: int) -> None:
    """Positions count ancestors, links run through children in ascending order."""
    width = max(map(len, batch))
    padded = [tree + [0] * (width - len(tree)) for tree in batch]
    out = empty_outputs(len(padded), width)
    lengths = torch.tensor([offset + b for b in range(len(padded))])
    mask = torch.cat([mask_of(tree).flatten() for tree in padded])
    ops.reconstruct_indices_from_tree_mask(
        mask,
        lengths,
        out["positions"],
        out["index"],
        out["next_token"],
        out["next_sibling"],
        len(padded),
        width,
    )
    assert out["index"].tolist() == list(range(len(padded) * width))
    for b, tree in enumerate(padded):
        rows = slice(b * width, (b + 1) * width)
        first, following = links_of(tree)
        assert out["next_token"][rows].tolist() == first
        assert out["next_sibling"][rows].tolist() == following
        depths = [len(ancestors(tree, node)) - 1 for node in range(width)]
        assert out["positions"][rows].tolist() == [offset + b + depth for depth in depths]


def drafted(topk: int, depth: int, width: int, rng: random.Random) -> tuple[list[int], list[int], list[int]]:
    """A draft as SGLang's EAGLE worker describes it, and the tree it means.

    Candidate c < topk hangs below the root; later levels hold topk groups of topk candidates, group g drafted
    from candidate parent_list[g]. A selection keeps a candidate only with its parent, in ascending order.
    """
    parent_list = [-1]
    for level in range(depth - 1):
        first = 0 if level == 0 else topk + (level - 1) * topk * topk
        span = topk if level == 0 else topk * topk
        parent_list += sorted(rng.sample(range(first, first + span), topk))
    total = len(parent_list) * topk
    parent_of = {c: None if c < topk else parent_list[c // topk] for c in range(total)}
    chosen: set[int] = set()
    while len(chosen) < width - 1:
        open_candidates = [
            c for c in range(total) if c not in chosen and (parent_of[c] is None or parent_of[c] in chosen)
        ]
        chosen.add(rng.choice(open_candidates))
    selected = sorted(chosen)
    tree = [-1]
    for c in selected:
        parent = parent_of[c]
        tree.append(0 if parent is None else selected.index(parent) + 1)
    return parent_list, selected, tree


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_building_a_tree_gives_the_tree_that_was_drafted(
    topk: int, depth: int, seed: int, batch: int
) -> None:
    """Mask, positions and links of a built tree are those of the selection's parents."""
    rng = random.Random(seed)
    width = rng.randint(2, 1 + (depth if topk == 1 else topk * depth))
    drafts = [drafted(topk, depth, width, rng) for _ in range(batch)]
    lengths = [rng.randint(0, 300) for _ in drafts]
    out = empty_outputs(batch, width)
    mask = torch.ones(batch * width * width, dtype=torch.bool)
    ops.build_tree_kernel_efficient_cpu(
        torch.tensor([d[0] for d in drafts]),
        torch.tensor([d[1] for d in drafts]),
        torch.tensor(lengths),
        mask,
        out["positions"],
        out["index"].view(batch, width),
        out["next_token"].view(batch, width),
        out["next_sibling"].view(batch, width),
        topk,
        depth,
        width,
        1,
    )
    assert out["index"].tolist() == list(range(batch * width))
    for b, (_, _, tree) in enumerate(drafts):
        rows = slice(b * width, (b + 1) * width)
        assert torch.equal(mask.view(batch, width, width)[b], mask_of(tree))
        first, following = links_of(tree)
        assert out["next_token"][rows].tolist() == first
        assert out["next_sibling"][rows].tolist() == following
        depths = [len(ancestors(tree, node)) - 1 for node in range(width)]
        assert out["positions"][rows].tolist() == [lengths[b] + d for d in depths]


@pytest.mark.parametrize("mode", [0, 2])
def test_other_mask_layouts_are_refused(mode: int) -> None:
    """SGLang's full and bit-packed masks are not what the attention kernel reads."""
    longs = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=f"tree_mask_mode={mode}"):
        ops.build_tree_kernel_efficient_cpu(
            longs, longs[:, :1], longs[0, :1], torch.ones(4, dtype=torch.bool), *([longs] * 4), 1, 1, 2, mode
        )


@given(st.lists(trees, min_size=1, max_size=4), st.integers(0, 10**6), st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_greedy_verification_walks_the_target_path(batch: list[list[int]], seed: int, deepest: int) -> None:
    """Accepted nodes are the path along which the drafts equal the target's predictions, cut at `deepest`."""
    rng = random.Random(seed)
    width = max(map(len, batch))
    padded = [tree + [0] * (width - len(tree)) for tree in batch]
    tokens = [[rng.randrange(3) for _ in tree] for tree in padded]
    predicted = [[rng.randrange(3) for _ in tree] for tree in padded]
    links = [links_of(tree) for tree in padded]
    predicts = torch.full((len(padded) * width,), -5, dtype=torch.int32)
    accept_index = torch.full((len(padded), deepest), -1, dtype=torch.int32)
    count = torch.full((len(padded),), -5, dtype=torch.int32)
    ops.verify_tree_greedy_cpu(
        predicts=predicts,
        accept_index=accept_index,
        accept_token_num=count,
        candidates=torch.tensor(tokens),
        retrive_index=torch.arange(len(padded) * width).view(-1, width),
        retrive_next_token=torch.tensor([first for first, _ in links]),
        retrive_next_sibling=torch.tensor([following for _, following in links]),
        target_predict=torch.tensor(predicted).flatten(),
    )
    for b, tree in enumerate(padded):
        path = greedy_path(tree, tokens[b], predicted[b])[:deepest]
        flat = [b * width + node for node in path]
        assert accept_index[b].tolist() == flat + [-1] * (deepest - len(flat))
        assert count[b] == len(path) - 1
        for node in range(width):
            expected = predicted[b][node] if node in path else -5
            assert predicts[b * width + node] == expected


def test_bonus_tokens_are_the_last_accepted() -> None:
    accepted = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.int32)
    bonus = torch.zeros(3, dtype=torch.int32)
    ops.fill_bonus_tokens_cpu(accepted.flatten(), torch.tensor([1, 3, 2], dtype=torch.int32), bonus, 3)
    assert bonus.tolist() == [1, 6, 8]
    with pytest.raises(RuntimeError, match="0 accepted tokens"):
        ops.fill_bonus_tokens_cpu(accepted.flatten(), torch.tensor([0, 1, 1]), bonus, 3)


def test_accepted_locations_are_packed_in_order() -> None:
    index = torch.tensor([[3, 0, -1], [-1, -1, -1], [5, -1, 4]], dtype=torch.int32)
    out = torch.full((9,), -1, dtype=torch.int64)
    ops.fill_accept_out_cache_loc_cpu(index, torch.arange(100, 106), out, 9)
    assert out.tolist() == [103, 100, 105, 104, -1, -1, -1, -1, -1]
    with pytest.raises(RuntimeError, match="index 3 of 3 locations"):
        ops.fill_accept_out_cache_loc_cpu(index, torch.arange(3), out)


def test_rotating_input_ids() -> None:
    """Runs move left by one; an empty run is left alone; select_index says where the new token goes."""
    ids = torch.arange(10, 18)
    start, length = torch.tensor([0, 3, 3]), torch.tensor([3, 0, 5])
    tokens = torch.tensor([[70], [71], [72]])
    ops.rotate_input_ids_cpu(ids, start, length, tokens)
    assert ids.tolist() == [11, 12, 70, 14, 15, 16, 17, 72]
    ids = torch.arange(10, 18)
    ops.rotate_input_ids_cpu(ids, start, length, tokens, torch.tensor([1, 0, 5]))
    assert ids.tolist() == [11, 70, 12, 14, 15, 72, 17, 17]
