"""From the GGUF file of SmolLM2 to a Hugging Face checkpoint; `smollm2` says what for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import pre_tokenizers

from sglang_patch.models.hf import transformers
from sglang_patch.models.store import ModelError, say

# What a sound conversion answers without doubt; wrongly mapped weights or tokens do not.
CHECK_QUESTION: Final = "What is the capital of France?"
CHECK_ANSWER: Final = "Paris"
CHECK_TOKENS: Final = 16

# Of the model the GGUF was read into, not of the checkpoint that is written.
_DROPPED_CONFIG: Final = ("quantization_config", "_name_or_path", "architectures", "transformers_version")


def convert(gguf: Path, out: Path) -> None:
    """Write the checkpoint for the file `gguf` into the directory `out`. Raises `ModelError`."""
    say(f"[1/4] reading the tokenizer from {gguf.name}")
    tokenizer = _read_tokenizer(gguf)
    say("[2/4] reading and dequantising the weights (about 10 s)")
    model = _read_model(gguf)
    say("[3/4] checking the converted model with a question")
    _check(model, tokenizer)
    say("[4/4] writing the checkpoint")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _read_tokenizer(gguf: Path) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise ModelError(f"{gguf.name} has no chat template")
    # The file names its pre-tokenizer ("smollm") without describing it, and transformers assumes GPT-2's.
    # This one also splits numbers into digits.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _read_model(gguf: Path) -> Any:
    """The weights in a fresh model: transformers refuses to save one that it has read from a GGUF file."""
    read = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    config = {key: value for key, value in read.config.to_dict().items() if key not in _DROPPED_CONFIG}
    fresh = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    problems = fresh.load_state_dict(read.state_dict(), strict=False)
    # The output layer is the embedding's, tied, and so not in the file.
    if problems.unexpected_keys or set(problems.missing_keys) - {"lm_head.weight"}:
        raise ModelError(f"{gguf.name} does not fit a Llama model: {problems}")
    fresh.tie_weights()
    return fresh.to(torch.bfloat16).eval()


def _check(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": CHECK_QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        tokens = model.generate(**prompt, max_new_tokens=CHECK_TOKENS, do_sample=False)
    answer = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    if CHECK_ANSWER not in answer:
        raise ModelError(f"the converted model is broken: asked {CHECK_QUESTION!r}, it said {answer!r}")
    say(f"      {CHECK_QUESTION} -> {answer}")
