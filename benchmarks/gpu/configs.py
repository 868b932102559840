"""Models of which only the shape matters: configurations written on the spot, weights made up by SGLang.

The time of a step does not depend on what weights mean, so `--load-format dummy` measures an 8B model
without its 16 GB of files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.models import Model
from benchmarks.workload import LoadKind

# Llama 3.1 8B, as its published configuration gives it.
LLAMA_8B: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "torch_dtype": "bfloat16",
}
# An EAGLE head is one layer of its target, behind a projection of embedding and hidden state.
EAGLE_CHANGES: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLMEagle"],
    "num_hidden_layers": 1,
}


def write_llama_8b(directory: Path) -> Model:
    """Target and EAGLE head as directories with nothing but a configuration."""
    target, head = directory / "llama-8b", directory / "llama-8b-eagle"
    _write(target, LLAMA_8B)
    _write(head, {**LLAMA_8B, **EAGLE_CHANGES})
    return Model("llama-8b", target, "bfloat16", (LoadKind.KNOB,), {"EAGLE": head})


def _write(directory: Path, config: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
