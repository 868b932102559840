"""The Python functions that SGLang imports from `sgl_kernel` on a CPU, by its names and argument order.

Shapes: batch size `bs`, tree width `w` (draft tokens of a request, the root included).
"""

from __future__ import annotations

import torch

from sglang_patch.cpu.kernels import load

load()
_ops = torch.ops.sgl_kernel

build_tree_kernel_efficient_cpu = _ops.build_tree_kernel_efficient_cpu
copy_all_layer_kv_cache_cpu = _ops.copy_all_layer_kv_cache_cpu
fill_bonus_tokens_cpu = _ops.fill_bonus_tokens_cpu
build_draft_decode_metadata_cpu = _ops.build_draft_decode_metadata_cpu
reconstruct_indices_from_tree_mask = _ops.reconstruct_indices_from_tree_mask
rotate_input_ids_cpu = _ops.rotate_input_ids_cpu
verify_tree_greedy_cpu = _ops.verify_tree_greedy_cpu


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Write `out_cache_loc` into the rows [start, end) of the request table; `pool_len` is its width."""
    _ops.assign_req_to_token_pool_cpu(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc)


def assign_extend_cache_locs_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Read the rows [start, end) of the request table into `out_cache_loc`; `pool_len` is its width."""
    _ops.assign_extend_cache_locs_cpu(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc)


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    seq_lens: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
    topk: int,
    num_steps: int,
) -> None:
    """Read each request's `topk * num_steps` slots behind its `seq_lens` tokens into `out_cache_loc`."""
    _ops.assign_extend_cache_locs_cpu(
        req_pool_indices, req_to_token, seq_lens, seq_lens + topk * num_steps, out_cache_loc
    )


def fill_accept_out_cache_loc_cpu(
    accept_index: torch.Tensor,
    out_cache_loc: torch.Tensor,
    accept_out_cache_loc: torch.Tensor,
    size: int | None = None,
) -> None:
    """Gather the locations of accepted tokens (those of `accept_index` >= 0) in `accept_out_cache_loc`."""
    _ops.fill_accept_out_cache_loc_cpu(accept_index, out_cache_loc, accept_out_cache_loc)
