"""The prompts of a run: drawn from a seed, so that every variant gets the same ones in the same order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks.prompts.chat import SUBJECTS, TASKS
from benchmarks.prompts.copying import INSTRUCTIONS, SENTENCES, SENTENCES_OF_A_TEXT

# Ids below this are special tokens in the vocabularies used here.
FIRST_ORDINARY_TOKEN_ID = 32
KNOB_PROMPT_TOKENS = (16, 64)
MAX_TOKENS = {"knob": 128, "chat": 128, "copy": 160}


class LoadKind(StrEnum):
    """What the clients ask for."""

    KNOB = "knob"  # random token ids, fixed output length, end-of-sequence ignored
    CHAT = "chat"  # short questions through /v1/chat/completions
    COPY = "copy"  # texts to be repeated, through /v1/chat/completions


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to be: `path` on the server and the JSON body, streaming, temperature 0."""

    index: int
    path: str
    body: dict[str, Any]
    max_tokens: int

    def cut_to(self, max_tokens: int) -> Prompt:
        """The same request with a shorter answer."""
        if self.path == "/generate":
            sampling = {**self.body["sampling_params"], "max_new_tokens": max_tokens}
            return Prompt(self.index, self.path, {**self.body, "sampling_params": sampling}, max_tokens)
        return Prompt(self.index, self.path, {**self.body, "max_tokens": max_tokens}, max_tokens)


def prompts(kind: LoadKind, seed: str, vocabulary_size: int) -> Iterator[Prompt]:
    """Endless prompts, the same for the same `seed`; `vocabulary_size` bounds the ids of `knob` prompts."""
    draw = random.Random(f"{kind}/{seed}")
    index = 0
    while True:
        for prompt in _deck(kind, draw, vocabulary_size):
            yield Prompt(index, prompt.path, prompt.body, prompt.max_tokens)
            index += 1


def _deck(kind: LoadKind, draw: random.Random, vocabulary_size: int) -> list[Prompt]:
    """For `chat` every text once, shuffled; for the others one fresh random prompt."""
    max_tokens = MAX_TOKENS[kind]
    if kind is LoadKind.KNOB:
        length = draw.randint(*KNOB_PROMPT_TOKENS)
        return [
            _generate(draw.choices(range(FIRST_ORDINARY_TOKEN_ID, vocabulary_size), k=length), max_tokens)
        ]
    if kind is LoadKind.CHAT:
        texts = [task.format(subject=subject) for task in TASKS for subject in SUBJECTS]
        draw.shuffle(texts)
    else:
        passage = " ".join(draw.sample(SENTENCES, SENTENCES_OF_A_TEXT))
        texts = [draw.choice(INSTRUCTIONS).format(passage=passage)]
    return [_chat(text, max_tokens) for text in texts]


def _generate(input_ids: list[int], max_tokens: int) -> Prompt:
    sampling = {"temperature": 0, "max_new_tokens": max_tokens, "ignore_eos": True}
    return Prompt(
        0, "/generate", {"input_ids": input_ids, "sampling_params": sampling, "stream": True}, max_tokens
    )


def _chat(text: str, max_tokens: int) -> Prompt:
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
        # Token counts with every chunk: a chunk may carry any number of tokens.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_spec_tokens_details": True,
    }
    return Prompt(0, "/v1/chat/completions", body, max_tokens)
