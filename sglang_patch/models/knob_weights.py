"""The weights of the knob model; `knob` says what it is for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from sglang_patch.models.hf import transformers
from sglang_patch.models.knob_tokenizer import BOS_ID, EOS_ID, VOCABULARY_SIZE, knob_tokenizer
from sglang_patch.models.store import ModelError, say

TARGET_LAYERS: Final = 12
HIDDEN_SIZE: Final = 256
# Three times what Llama starts training with: logits are spread far enough that the greedy token is no
# near tie, which rounding could tip.
WEIGHT_STD: Final = 0.06
SEED: Final = 0
AGREEMENT_TOKENS: Final = 256
_LATER_LAYER_OUTPUT: Final = re.compile(r"model\.layers\.(?!0\.)\d+\..*(o_proj|down_proj)\.weight")


def build(out: Path, scale: float) -> None:
    """Write `target`, `draft` and `eagle` below the directory `out`."""
    say(f"[1/3] making the knob model at scale {scale:g}")
    target = target_model(scale)
    draft = draft_model(target)
    head = eagle_head(target)
    say("[2/3] checking that both drafters foretell the target")
    _check_agreement(target, draft, head)
    say("[3/3] writing the checkpoints")
    tokenizer = knob_tokenizer()
    for model, name in ((target, "target"), (draft, "draft")):
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
    (out / "eagle").mkdir()
    save_file(head, out / "eagle" / "model.safetensors", metadata={"format": "pt"})
    config = {**knob_config(1).to_dict(), "architectures": ["LlamaForCausalLMEagle"]}
    (out / "eagle" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(out / "eagle")


def knob_config(layers: int) -> Any:
    return transformers.LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=False,
        dtype="float32",
    )


def target_model(scale: float) -> Any:
    """The target: random matrices, later layers damped by `scale`, embedding rows all of one length."""
    model = transformers.LlamaForCausalLM(knob_config(TARGET_LAYERS)).float().eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() != 2:
                continue  # norms stay at one
            parameter.normal_(std=WEIGHT_STD, generator=generator)
            if _LATER_LAYER_OUTPUT.fullmatch(name):
                parameter.mul_(scale)
        # Normalising rows of one root mean square is the same as scaling them; `eagle_head` needs that.
        embedding = model.get_input_embeddings().weight
        embedding.mul_(WEIGHT_STD / embedding.pow(2).mean(dim=1, keepdim=True).sqrt())
    return model


def draft_model(target: Any) -> Any:
    """The STANDALONE draft: everything of the target except its later layers."""
    draft = transformers.LlamaForCausalLM(knob_config(1)).float().eval()
    weights = target.state_dict()
    draft.load_state_dict({name: weights[name] for name in draft.state_dict()})
    return draft


def eagle_head(target: Any) -> dict[str, torch.Tensor]:
    """Weights of an EAGLE head (SGLang's LlamaForCausalLMEagle) that does what the target's first layer does.

    Such a head joins a token's embedding e and the target's hidden state in `fc`, runs one decoder layer
    that has no input norm, and hands the result to the target's output layer without a final norm. Against
    the target's first layer two norms are missing, and both can be had by scaling with s = 1 / rms(e), the
    same for every token:

    - `fc` = [s I, 0]: the layer sees s e, which is what the input norm (of weight one) makes of e. The
      hidden state is ignored.
    - The residual stream now is s e instead of e. With `o_proj` and `down_proj` scaled by s as well, all of
      it is s times the target's; the norm before the MLP does not notice a factor.
    - Without the final norm the logits differ from the draft's by a positive factor: the best token is the
      same.
    """
    weights = target.state_dict()
    scale_in = 1 / WEIGHT_STD
    head = {}
    for name, value in weights.items():
        if not name.startswith("model.layers.0.") or "input_layernorm" in name:
            continue
        scaled = value * scale_in if "o_proj" in name or "down_proj" in name else value.clone()
        head[name.removeprefix("model.")] = scaled.contiguous()
    identity, zero = torch.eye(HIDDEN_SIZE), torch.zeros(HIDDEN_SIZE, HIDDEN_SIZE)
    head["fc.weight"] = torch.cat((identity * scale_in, zero), dim=1).contiguous()
    head["fc.bias"] = torch.zeros(HIDDEN_SIZE)
    return head


def _check_agreement(target: Any, draft: Any, head: dict[str, torch.Tensor]) -> None:
    """Refuse to publish a head that foretells the target worse than the draft: they should be equal."""
    tokens = torch.tensor([[BOS_ID]])
    with torch.inference_mode():
        tokens = target.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            min_new_tokens=AGREEMENT_TOKENS,
            max_new_tokens=AGREEMENT_TOKENS,
            do_sample=False,
        )
        said = target(tokens).logits.argmax(-1)
        by_draft = float((draft(tokens).logits.argmax(-1) == said).float().mean())
        by_head = float((_head_as_model(target, head)(tokens).logits.argmax(-1) == said).float().mean())
    say(f"      tokens foretold: draft {by_draft:.0%}, EAGLE head {by_head:.0%}")
    if by_head < by_draft - 0.02:
        raise ModelError(f"the EAGLE head foretells {by_head:.0%} of the tokens, the draft {by_draft:.0%}")


def _head_as_model(target: Any, head: dict[str, torch.Tensor]) -> Any:
    """The head as transformers can run it: one layer without input and final norm, on scaled embeddings."""
    model: Any = transformers.LlamaForCausalLM(knob_config(1)).float().eval()
    model.model.layers[0].input_layernorm = torch.nn.Identity()
    model.model.norm = torch.nn.Identity()
    weights = target.state_dict()
    embedding = torch.nn.functional.linear(
        weights["model.embed_tokens.weight"], head["fc.weight"][:, :HIDDEN_SIZE], head["fc.bias"]
    )
    layer = {f"model.{name}": value for name, value in head.items() if name.startswith("layers.")}
    outer = {"model.embed_tokens.weight": embedding, "lm_head.weight": weights["lm_head.weight"]}
    model.load_state_dict(layer | outer)
    return model
