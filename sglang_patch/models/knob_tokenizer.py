"""A tokenizer for the knob model, written down instead of trained: bytes, and pairs of common characters.

Any text goes in and any token comes out as text, two characters a token: all that a random model needs.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sglang_patch.models.hf import transformers

VOCABULARY_SIZE: Final = 1024
SPECIAL_TOKENS: Final = ("<s>", "</s>", "<|user|>", "<|assistant|>")
BOS_ID: Final = 0
EOS_ID: Final = 1
# By frequency in English text; "Ġ" is how a byte-level vocabulary writes a space.
COMMON_CHARACTERS: Final = "Ġetaoinshrdlcumwfgypbvkxjqz.,"

CHAT_TEMPLATE: Final = (
    "{% for m in messages %}<|{{ 'assistant' if m['role'] == 'assistant' else 'user' }}|>{{ m['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def knob_tokenizer() -> Any:
    """The tokenizer, of exactly `VOCABULARY_SIZE` tokens, with a chat template."""
    single = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pairs = list(itertools.product(COMMON_CHARACTERS, repeat=2))[: VOCABULARY_SIZE - len(single)]
    tokens = [*single, *(first + second for first, second in pairs)]
    assert len(set(tokens)) == VOCABULARY_SIZE
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL_TOKENS[BOS_ID],
        eos_token=SPECIAL_TOKENS[EOS_ID],
        pad_token=SPECIAL_TOKENS[EOS_ID],
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
