"""Is everything here that the GPU benchmark needs? Nothing is fetched."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from importlib import metadata

from benchmarks.models import Model
from sglang_patch.models.hf import transformers

TESTED_SGLANG = "0.5.23"
BYTES_PER_GIB = 2**30
# Weights of 8B in bfloat16, graphs of six lengths, and a cache for 128 requests.
MEMORY_GIB_MIN = 40.0


def gpu_faults() -> list[str]:
    """What is missing to run on this machine's GPU; empty if nothing is."""
    import torch  # noqa: PLC0415  (seconds, and not needed where only the plan is printed)

    faults = []
    if torch.version.cuda is None:
        faults.append(f"torch {torch.__version__} is built without CUDA")
    elif not torch.cuda.is_available():
        faults.append("torch finds no CUDA device")
    else:
        memory_gib = torch.cuda.get_device_properties(0).total_memory / BYTES_PER_GIB
        if memory_gib < MEMORY_GIB_MIN:
            faults.append(f"the GPU has {memory_gib:.0f} GiB of memory, {MEMORY_GIB_MIN:.0f} are needed")
    faults += [
        f"package {name} is not installed"
        for name in ("triton", "sgl_kernel")
        if importlib.util.find_spec(name) is None
    ]
    return faults


def versions() -> list[str]:
    """What is installed, and what the plugin was tested with."""
    found = {name: metadata.version(name) for name in ("sglang", "torch", "turbospec")}
    lines = [f"{name} {version}" for name, version in found.items()]
    if found["sglang"] != TESTED_SGLANG:
        lines.append(
            f"the plugin was tested with sglang {TESTED_SGLANG}; it checks for itself whether this one fits"
        )
    return lines


def check_model(model: Model) -> str:
    """What transformers makes of both configurations: parameters of the target, layers of the head.

    Raises:
        ValueError: head and target do not fit each other.
    """
    target, head = (
        transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        for path in (model.target, model.drafts["EAGLE"])
    )
    for name in ("hidden_size", "vocab_size", "num_attention_heads", "num_key_value_heads"):
        if getattr(head, name) != getattr(target, name):
            raise ValueError(
                f"{name}={getattr(head, name)} of the head: must be the target's {getattr(target, name)}"
            )
    return (
        f"{model.name}: {parameters_of(target) / 1e9:.2f}B parameters, head of {head.num_hidden_layers} layer"
    )


def parameters_of(config: object) -> int:
    """Of a Llama, from its configuration."""
    get = config.__getattribute__
    hidden, heads, kv_heads = get("hidden_size"), get("num_attention_heads"), get("num_key_value_heads")
    attention = hidden * hidden * 2 + 2 * hidden * (hidden // heads) * kv_heads
    layer = attention + 3 * hidden * get("intermediate_size") + 2 * hidden
    return int(get("num_hidden_layers") * layer + 2 * hidden * get("vocab_size") + hidden)


def check_flags(argv: Sequence[str]) -> None:
    """Let the installed SGLang parse the flags of a server's command; nothing is started.

    Raises:
        ValueError: it does not know one, or refuses its value.
    """
    from sglang.srt.server_args import ServerArgs  # noqa: PLC0415  (seconds)

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:  # type: ignore[override]
            raise ValueError(f"SGLang refuses the flags of the plan: {message}")

    parser = Parser(prog="sglang", exit_on_error=False)
    ServerArgs.add_cli_args(parser)
    try:
        parser.parse_args(list(argv))
    except argparse.ArgumentError as error:
        raise ValueError(f"SGLang refuses the flags of the plan: {error}") from error
