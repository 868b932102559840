"""What the kernels need from SGLang beyond being called: hooks through its own registry.

Registered by the launcher in every process before SGLang applies hooks, so they take effect as plugins' do.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

TESTED_SGLANG = "0.5.23"
SUPPORTED_DTYPES = (torch.float32, torch.bfloat16)

_LAYERS = "sglang.srt.layers."


class UnsupportedOnCPU(NotImplementedError):
    """A model or an option that the CPU kernels do not serve."""


def register() -> None:
    """Register every hook.

    Raises:
        UnsupportedOnCPU: this is not the SGLang that the kernels were written against.
    """
    found = version("sglang")
    if found != TESTED_SGLANG:
        raise UnsupportedOnCPU(f"the CPU kernels fit SGLang {TESTED_SGLANG}, and {found} is installed")
    source = HookSource(plugin_name="turbospec-cpu", dist_name="turbospec")
    for target, hook, kind in (
        ("radix_attention.RadixAttention.__init__", check_attention_layer, HookType.AFTER),
        ("attention.intel_amx_backend.IntelAMXAttnBackend.__init__", check_kv_cache, HookType.AFTER),
        ("amx_utils.dtype_is_supported", dtype_is_supported, HookType.REPLACE),
        ("logits_processor.LogitsProcessor._compute_lm_head", claim_lm_head, HookType.BEFORE),
    ):
        HookRegistry.register(_LAYERS + target, hook, kind, source=source)


def check_attention_layer(result: None, layer: Any, *args: object, **kwargs: object) -> None:
    """Refuse an attention layer that the kernels would get wrong, when the model is built."""
    wrong = {
        "logit_cap": layer.logit_cap != 0,
        "sliding_window_size": layer.sliding_window_size > 0,
        "is_cross_attention": layer.is_cross_attention,
        "use_irope": layer.use_irope,
        "v_head_dim": layer.v_head_dim != layer.qk_head_dim,
        "head_dim": layer.qk_head_dim % 32 != 0 or layer.qk_head_dim > 256,
        "attn_type": getattr(layer.attn_type, "value", layer.attn_type) != "decoder",
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise UnsupportedOnCPU(
                f"attention layer {layer.layer_id} has {name}={getattr(layer, name)}, which TurboSpec's CPU "
                "kernels do not support: they do full causal attention, with equal key and value head "
                "dimensions, a multiple of 32 up to 256"
            )


def check_kv_cache(result: None, backend: Any, *args: object, **kwargs: object) -> None:
    """Refuse a KV cache that the kernels cannot read, when the attention backend is built."""
    dtype = backend.token_to_kv_pool.dtype
    if dtype not in SUPPORTED_DTYPES:
        raise UnsupportedOnCPU(
            f"the KV cache is {dtype}, which TurboSpec's CPU kernels do not support: they support float32 "
            "and bfloat16. It follows --dtype, and what is not given there is float16 for many models: pass "
            "--dtype bfloat16, and no --kv-cache-dtype"
        )
    if backend.use_mla:
        raise UnsupportedOnCPU("multi-head latent attention is not supported by TurboSpec's CPU kernels")
    if backend.use_sliding_window_kv_pool:
        raise UnsupportedOnCPU("a sliding-window KV cache is not supported by TurboSpec's CPU kernels")


def dtype_is_supported(weight: torch.Tensor) -> bool:
    """Which weights SGLang hands to the kernels: float32 too, where its own CPU build leaves it to torch."""
    return weight.dtype in SUPPORTED_DTYPES


def claim_lm_head(processor: Any, hidden: torch.Tensor, lm_head: Any, *args: object, **kw: object) -> None:
    """Let the kernels compute the logits from the embedding table as it lies, tied or not, uncopied."""
    weight = getattr(lm_head, "weight", None)
    if getattr(lm_head, "use_intel_amx_backend", None) is None and isinstance(weight, torch.Tensor):
        lm_head.use_intel_amx_backend = weight.dtype in SUPPORTED_DTYPES and hidden.dtype == weight.dtype
