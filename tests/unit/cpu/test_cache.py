"""KV-cache writes, the bookkeeping of slots, and moves of accepted tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_patch.cpu import functions as ops


def test_slots_go_into_the_table_and_come_out_again() -> None:
    """Ragged ranges, an empty one among them; nothing outside a range is touched."""
    table = torch.full((4, 10), -1, dtype=torch.int32)
    requests, start, end = torch.tensor([3, 0, 2]), torch.tensor([2, 5, 0]), torch.tensor([6, 5, 3])
    locations = torch.arange(50, 57)
    ops.assign_req_to_token_pool_cpu(requests, table, start, end, locations, 10)
    expected = torch.full((4, 10), -1, dtype=torch.int32)
    expected[3, 2:6] = torch.arange(50, 54)
    expected[2, 0:3] = torch.arange(54, 57)
    assert torch.equal(table, expected)
    for dtype in (torch.int32, torch.int64):
        back = torch.zeros(7, dtype=dtype)
        ops.assign_extend_cache_locs_cpu(requests, table, start.int(), end.int(), back, 10)
        assert back.tolist() == list(range(50, 57))


def test_slot_ranges_are_checked() -> None:
    """Out of range would write into another request's memory."""
    table = torch.zeros(2, 4, dtype=torch.int32)
    one, out = torch.tensor([1]), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"tokens \[2, 5\) of a row of 4"):
        ops.assign_extend_cache_locs_cpu(one, table, torch.tensor([2]), torch.tensor([5]), out, 4)
    with pytest.raises(RuntimeError, match="request 2 of a table of 2"):
        ops.assign_extend_cache_locs_cpu(one + 1, table, torch.tensor([0]), torch.tensor([1]), out, 4)
    with pytest.raises(RuntimeError, match="more tokens than the 1"):
        ops.assign_extend_cache_locs_cpu(one, table, torch.tensor([0]), torch.tensor([2]), out[:1], 4)


def test_draft_slots_lie_behind_the_sequence() -> None:
    table = torch.arange(30, dtype=torch.int32).view(2, 15)
    out = torch.zeros(12, dtype=torch.int64)
    ops.assign_draft_cache_locs_contiguous_cpu(
        torch.tensor([1, 0]), table, torch.tensor([4, 9]), out, 15, 2, 3
    )
    assert out.tolist() == [*range(19, 25), *range(9, 15)]


def test_each_branch_gets_the_prefix_and_its_own_drafts() -> None:
    table = torch.arange(100, 130, dtype=torch.int32).view(2, 15)
    rows = ops.build_draft_decode_metadata_cpu(table, torch.tensor([1, 0]), torch.tensor([4, 0]), 2, 3, 15)
    assert rows.shape == (4, 15)
    assert rows[0, :7].tolist() == [115, 116, 117, 118, 119, 120, 121]
    assert rows[1, :7].tolist() == [115, 116, 117, 118, 122, 123, 124]
    assert rows[2, :3].tolist() == [100, 101, 102]
    assert rows[3, :3].tolist() == [103, 104, 105]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_store_cache_takes_strided_rows(dtype: torch.dtype) -> None:
    """Values arrive as a slice of the fused projection, not contiguous."""
    fused = torch.randn(3, 40).to(dtype)
    k, v = fused[:, 8:24], fused[:, 24:40]
    k_cache, v_cache = torch.zeros(6, 2, 8, dtype=dtype), torch.zeros(6, 2, 8, dtype=dtype)
    slots = torch.tensor([4, 0, 2])
    torch.ops.sgl_kernel.store_cache_cpu(k, v, k_cache, v_cache, slots, 16)
    for cache, rows in ((k_cache, k), (v_cache, v)):
        assert torch.equal(cache[slots].flatten(1), rows)
        assert not cache[[1, 3, 5]].any()


def test_store_cache_refuses_other_types_and_places() -> None:
    rows, slots = torch.randn(1, 16), torch.tensor([6])
    cache, fp8 = torch.zeros(6, 2, 8), torch.zeros(6, 2, 8, dtype=torch.float8_e4m3fn)
    with pytest.raises(RuntimeError, match="no fp8 KV cache"):
        torch.ops.sgl_kernel.store_cache_cpu(rows, rows, fp8, fp8, slots, 16)
    with pytest.raises(RuntimeError, match="slot 6 of a KV cache of 6"):
        torch.ops.sgl_kernel.store_cache_cpu(rows, rows, cache, cache, slots, 16)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_kv_moves_read_everything_before_they_write(data: st.DataObject) -> None:
    """Sources and targets overlap when accepted tokens close up over rejected ones."""
    count = data.draw(st.integers(0, 8))
    source = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    target = data.draw(st.permutations(range(10)))[:count]
    buffers = [torch.randn(10, 3), torch.randn(10, 2, 5).bfloat16()]
    before = [buffer.clone() for buffer in buffers]
    ops.copy_all_layer_kv_cache_cpu(
        torch.tensor([buffer.data_ptr() for buffer in buffers], dtype=torch.uint64),
        torch.tensor([buffer[0].numel() * buffer.element_size() for buffer in buffers]),
        torch.tensor(target, dtype=torch.int64),
        torch.tensor(source, dtype=torch.int64),
    )
    for buffer, old in zip(buffers, before, strict=True):
        expected = old.clone()
        for to, origin in zip(target, source, strict=True):
            expected[to] = old[origin]
        assert torch.equal(buffer, expected)
