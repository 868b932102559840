"""NGRAM's steps of length 0 on a CPU: what makes a batch an ordinary decode step, and what forbids it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sglang_patch.config import EngineConfig
from sglang_patch.control import StepControl
from sglang_patch.hooks import plain_decode


def control() -> StepControl:
    config = EngineConfig.from_env({"TURBOSPEC_CONTROL_ADDRESS": "unix:/nowhere.sock"})
    assert config is not None
    return StepControl(config, (0, 1), 1, 4)


def worker(**changes: Any) -> SimpleNamespace:
    usual = {
        "draft_token_num": 1,
        "device": "cpu",
        "enable_overlap": False,
        "model_runner": SimpleNamespace(watermark_state=None),
    }
    return SimpleNamespace(**(usual | changes))


def batch(**changes: Any) -> SimpleNamespace:
    """Two requests of 3 and 5 committed tokens, whose KV slots are 10 a row and 1 a token apart."""
    usual = {
        "reqs": [SimpleNamespace(output_ids=[7, 8]), SimpleNamespace(output_ids=[9])],
        "forward_mode": ForwardMode.DECODE,
        "spec_info": "of the step before",
        "input_ids": None,
        "out_cache_loc": None,
        "req_pool_indices": torch.tensor([2, 1]),
        "req_to_token_pool": SimpleNamespace(req_to_token=torch.arange(40, dtype=torch.int32).view(4, 10)),
        "seq_lens": torch.tensor([3, 5]),
        "seq_lens_cpu": torch.tensor([3, 5]),
        "seq_lens_sum": 8,
        "return_logprob": False,
        "return_hidden_states": False,
        "has_grammar": False,
    }
    return SimpleNamespace(**(usual | changes))


def test_the_batch_gets_the_input_of_a_decode_step() -> None:
    given = batch()
    lengths = given.seq_lens
    assert plain_decode.prepare(control(), worker(), given)
    assert plain_decode.prepared(given)
    assert given.input_ids.tolist() == [8, 9]
    assert given.out_cache_loc.tolist() == [23, 15]
    assert given.seq_lens.tolist() == given.seq_lens_cpu.tolist() == [4, 6]
    # The scheduler's own tensor is not written to.
    assert lengths.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("of_worker", "of_batch"),
    [
        ({"draft_token_num": 2}, {}),
        ({"device": "cuda"}, {}),
        ({"enable_overlap": True}, {}),
        ({"model_runner": SimpleNamespace(watermark_state="on")}, {}),
        ({}, {"forward_mode": ForwardMode.EXTEND}),
        ({}, {"return_logprob": True}),
        ({}, {"return_hidden_states": True}),
        ({}, {"has_grammar": True}),
    ],
    ids=str,
)
def test_whatever_needs_more_verifies(of_worker: dict[str, Any], of_batch: dict[str, Any]) -> None:
    given = batch(**of_batch)
    before = dict(vars(given))
    assert not plain_decode.prepare(control(), worker(**of_worker), given)
    assert not plain_decode.prepared(given)
    assert vars(given) == before


def test_a_failure_leaves_the_batch_as_it_was() -> None:
    given, steered = batch(seq_lens_cpu=None), control()
    before = dict(vars(given))
    assert not plain_decode.prepare(steered, worker(), given)
    assert steered.failed
    assert vars(given) == before
