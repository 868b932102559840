"""Models and options that the kernels would get wrong stop the engine, by name, before the first token."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_patch.cpu import activate, kernels

activate.mark_environment(os.environ)
activate.activate_in_process()

from sglang_patch.cpu import hooks  # noqa: E402  (imports SGLang)


def layer(**changes: Any) -> SimpleNamespace:
    usual = {
        "layer_id": 7,
        "logit_cap": 0.0,
        "sliding_window_size": -1,
        "is_cross_attention": False,
        "use_irope": False,
        "qk_head_dim": 64,
        "v_head_dim": 64,
        "attn_type": SimpleNamespace(value="decoder"),
    }
    return SimpleNamespace(**usual | changes, head_dim=changes.get("qk_head_dim", 64))


def backend(dtype: torch.dtype = torch.bfloat16, **changes: Any) -> SimpleNamespace:
    usual = {"use_mla": False, "use_sliding_window_kv_pool": False}
    return SimpleNamespace(token_to_kv_pool=SimpleNamespace(dtype=dtype), **usual | changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"logit_cap": 30.0}, "logit_cap=30.0"),
        ({"sliding_window_size": 4096}, "sliding_window_size=4096"),
        ({"is_cross_attention": True}, "is_cross_attention=True"),
        ({"use_irope": True}, "use_irope=True"),
        ({"v_head_dim": 128}, "v_head_dim=128"),
        ({"qk_head_dim": 80, "v_head_dim": 80}, "head_dim=80"),
        ({"attn_type": SimpleNamespace(value="encoder_only")}, "attn_type="),
    ],
)
def test_an_attention_layer_is_refused_when_the_model_is_built(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(hooks.UnsupportedOnCPU, match=f"layer 7 has {named}"):
        hooks.check_attention_layer(None, layer(**changes))


def test_a_llama_like_layer_passes() -> None:
    from sglang.srt.layers.radix_attention import RadixAttention  # noqa: PLC0415

    hooks.check_attention_layer(None, layer())
    hooks.check_attention_layer(None, RadixAttention(8, 32, 0.1, 4, layer_id=0))
    hooks.check_kv_cache(None, backend())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (backend(torch.float8_e4m3fn), "float8_e4m3fn"),
        (backend(torch.float16), "float16"),
        (backend(use_mla=True), "latent attention"),
        (backend(use_sliding_window_kv_pool=True), "sliding-window"),
    ],
)
def test_a_kv_cache_is_refused_when_the_backend_is_built(wrong: SimpleNamespace, named: str) -> None:
    with pytest.raises(hooks.UnsupportedOnCPU, match=named):
        hooks.check_kv_cache(None, wrong)


@pytest.mark.parametrize("name", sorted(kernels.REFUSED))
def test_operators_of_other_model_families_say_so(name: str) -> None:
    """Whatever the arguments: the message is about the model, not about a schema."""
    with pytest.raises(NotImplementedError, match=f"sgl_kernel.{name}: .* is not among"):
        getattr(torch.ops.sgl_kernel, name)(torch.zeros(1), 3, flag=True)


def test_operators_that_switch_sglang_to_another_path_stay_absent() -> None:
    """SGLang asks whether they exist, and would call them."""
    for name in ("fused_qk_norm_cpu", "fused_qk_norm_rope_cpu", "gdn_attention", "get_device_accessible_ptr"):
        assert not hasattr(torch.ops.sgl_kernel, name)


def test_tensor_parallelism_is_refused() -> None:
    torch.ops.sgl_kernel.initialize(1, 0)
    with pytest.raises(ValueError, match="--tp-size 2"):
        torch.ops.sgl_kernel.initialize(2, 0)


def test_another_sglang_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "version", lambda name: "0.6.0")
    with pytest.raises(hooks.UnsupportedOnCPU, match=r"fit SGLang 0\.5\.23, and 0\.6\.0 is installed"):
        hooks.register()


def test_the_lm_head_goes_to_the_kernels_uncopied() -> None:
    """Also when tied, when SGLang would leave it to torch; never when the types differ."""
    weight = torch.zeros(4, 2)
    plain = SimpleNamespace(weight=weight)
    hooks.claim_lm_head(None, torch.zeros(1, 2), plain)
    assert plain.use_intel_amx_backend is True
    assert plain.weight is weight
    mixed = SimpleNamespace(weight=weight.bfloat16())
    hooks.claim_lm_head(None, torch.zeros(1, 2), mixed)
    assert mixed.use_intel_amx_backend is False
    decided = SimpleNamespace(weight=weight, use_intel_amx_backend=False)
    hooks.claim_lm_head(None, torch.zeros(1, 2), decided)
    assert decided.use_intel_amx_backend is False
