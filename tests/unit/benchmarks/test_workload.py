"""Every variant must get the same prompts in the same order, and enough of them."""

import itertools
import json

import pytest

from benchmarks.prompts.chat import SUBJECTS, TASKS
from benchmarks.workload import FIRST_ORDINARY_TOKEN_ID, MAX_TOKENS, LoadKind, Prompt, prompts

VOCABULARY_SIZE = 1024


def take(kind: LoadKind, seed: str, count: int) -> list[Prompt]:
    return list(itertools.islice(prompts(kind, seed, VOCABULARY_SIZE), count))


@pytest.mark.parametrize("kind", LoadKind)
def test_the_same_seed_gives_the_same_prompts(kind: LoadKind) -> None:
    assert take(kind, "0/1", 50) == take(kind, "0/1", 50)


@pytest.mark.parametrize("kind", LoadKind)
def test_another_round_gives_others(kind: LoadKind) -> None:
    assert take(kind, "0/1", 20) != take(kind, "0/2", 20)


@pytest.mark.parametrize("kind", LoadKind)
def test_prompts_are_numbered_stream_and_are_greedy(kind: LoadKind) -> None:
    drawn = take(kind, "s", 100)
    assert [prompt.index for prompt in drawn] == list(range(100))
    for prompt in drawn:
        assert prompt.body["stream"] is True
        assert prompt.body.get("sampling_params", prompt.body)["temperature"] == 0
        json.dumps(prompt.body)


def test_knob_prompts_are_ordinary_tokens_of_the_vocabulary_and_never_end_early() -> None:
    for prompt in take(LoadKind.KNOB, "s", 200):
        assert prompt.path == "/generate"
        assert all(FIRST_ORDINARY_TOKEN_ID <= token < VOCABULARY_SIZE for token in prompt.body["input_ids"])
        assert prompt.body["sampling_params"]["ignore_eos"] is True


@pytest.mark.parametrize("kind", [LoadKind.CHAT, LoadKind.COPY])
def test_no_text_comes_twice_in_a_cell(kind: LoadKind) -> None:
    """A server's drafter would know the answer of one that does."""
    texts = [prompt.body["messages"][0]["content"] for prompt in take(kind, "s", len(SUBJECTS) * len(TASKS))]
    assert len(set(texts)) == len(texts) == 1_000


@pytest.mark.parametrize("kind", LoadKind)
def test_a_cut_prompt_asks_the_same_for_fewer_tokens(kind: LoadKind) -> None:
    whole = take(kind, "s", 1)[0]
    cut = whole.cut_to(7)
    assert cut.max_tokens == 7
    assert whole.max_tokens == MAX_TOKENS[kind]
    assert cut.cut_to(whole.max_tokens) == whole
    assert cut.body != whole.body
