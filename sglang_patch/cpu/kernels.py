"""Registers the operators of the `sgl_kernel` namespace that SGLang calls on a CPU.

The C++ ones come from `csrc/`; here are the two that only talk to the host, and the names of those we refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NoReturn

import torch

from sglang_patch.cpu import build

# Operators of SGLang's own CPU build that serve model families we do not: calling one says so. Operators
# whose mere presence makes SGLang choose another path (fused_qk_norm_cpu, gdn_attention, ...) stay absent.
REFUSED: dict[str, str] = {
    "apply_multidimensional_rope_cpu": "vision towers",
    "apply_rotary_pos_emb_cpu": "vision towers",
    "biased_grouped_topk_cpu": "mixture of experts",
    "bmm_cpu": "multi-head latent attention",
    "conv3d_embed_cpu": "vision towers",
    "conv3d_embed_weight_pack": "vision towers",
    "convert_weight_packed_scale_zp": "AWQ and GPTQ weights",
    "flash_attn_varlen_func": "vision towers",
    "fp8_per_tensor_scaled_mm_cpu": "fp8 weights",
    "fp8_scaled_mm_cpu": "fp8 weights",
    "fused_dual_residual_rmsnorm_cpu": "Grok",
    "fused_experts_cpu": "mixture of experts",
    "fused_gdn_gating_cpu": "linear attention",
    "fused_input_proj_cpu": "Qwen3.5",
    "fused_moe_router_cpu": "mixture of experts",
    "fused_qk_gemma_rmsnorm_cpu": "Qwen3.5",
    "fused_qk_gemma_rmsnorm_with_gate_cpu": "Qwen3.5",
    "fused_qkvzba_split_reshape_cat_contiguous_cpu": "Qwen3.5",
    "fused_qkvzba_split_reshape_cat_cpu": "Qwen3-Next",
    "fused_rmsnorm_gated_cpu": "linear attention",
    "fused_sigmoid_gating_delta_rule_update_cpu": "linear attention",
    "fused_sigmoid_mul_cpu": "Qwen3.5",
    "gelu_and_mul_cpu": "the GELU activation",
    "gelu_tanh_and_mul_cpu": "the GELU activation",
    "gemma3_rmsnorm_cpu": "Gemma",
    "gemma4_rmsnorm_cpu": "Gemma",
    "gemma_fused_add_rmsnorm_cpu": "Gemma",
    "gemma_rmsnorm_cpu": "Gemma",
    "grouped_topk_cpu": "mixture of experts",
    "int4_scaled_mm_cpu": "AWQ and GPTQ weights",
    "l2norm_cpu": "L2 norms",
    "layernorm_cpu": "LayerNorm",
    "multimodal_rotary_embedding_cpu": "multimodal rotary embedding",
    "shared_expert_cpu": "mixture of experts",
    "topk_sigmoid_cpu": "mixture of experts",
    "topk_softmax_cpu": "mixture of experts",
}


@cache
def load() -> None:
    """Compile if needed, load, register. Once per process.

    Raises:
        sglang_patch.cpu.build.BuildError: the kernels could not be compiled.
    """
    torch.ops.load_library(str(build.library()))  # type: ignore[no-untyped-call]
    # Plain functions: an operator would check arguments against a schema before it could say what is wrong.
    functions: dict[str, Callable[..., object]] = {
        "init_cpu_threads_env": _init_cpu_threads_env,
        "initialize": _initialize,
    }
    functions |= {name: _refuser(name, family) for name, family in REFUSED.items()}
    for name, function in functions.items():
        setattr(torch.ops.sgl_kernel, name, function)


def _init_cpu_threads_env(cpu_ids: object) -> str:
    """SGLang would bind threads to cores; here OMP_NUM_THREADS and the operating system decide."""
    return f"threads are not bound to cores ({cpu_ids} ignored)"


def _initialize(size: int, rank: int) -> None:
    if size != 1:
        raise ValueError(f"--tp-size {size} (rank {rank}) is not supported on CPU, only 1 is")


def _refuser(name: str, family: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"sgl_kernel.{name}: {family} is not among what TurboSpec's CPU kernels support "
            "(dense Llama-like models in float32 or bfloat16)"
        )

    return refuse
