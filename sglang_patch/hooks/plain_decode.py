"""NGRAM on a CPU: a step of length 0 runs as the ordinary decode step that it is.

SGLang's NGRAM worker verifies whatever it is given, one token a request included, and on a CPU that way
costs a tenth more than a decode step: layer by layer it does more in Python. A batch that comes to it in
decode mode it runs as such, so such a step needs no more than a batch that is prepared as SGLang's scheduler
prepares one without speculation. On a GPU, where graphs are replayed, there is nothing to gain.
"""

from __future__ import annotations

from typing import Any

import torch

from sglang_patch.control import StepControl
from sglang_patch.hooks.attach import guarded


@guarded
def prepare(_control: StepControl, worker: Any, batch: Any) -> bool:
    """Give the batch the input of a decode step, if that is all it needs; returns whether it has it.

    SGLang takes everything back once the step has run.
    """
    if not _possible(worker, batch):
        return False
    last_tokens = torch.tensor([req.output_ids[-1] for req in batch.reqs], dtype=torch.int64)
    places = batch.req_to_token_pool.req_to_token[batch.req_pool_indices.long(), batch.seq_lens.long()].long()
    lengths, lengths_cpu = batch.seq_lens + 1, batch.seq_lens_cpu + 1
    # From here on nothing can fail: the batch is changed as a whole or not at all.
    batch.spec_info = None
    batch.input_ids, batch.out_cache_loc = last_tokens, places
    batch.seq_lens, batch.seq_lens_cpu, batch.seq_lens_sum = lengths, lengths_cpu, None
    return True


def prepared(batch: Any) -> bool:
    """Whether this is a batch that `prepare` has changed."""
    return batch.spec_info is None and batch.forward_mode.is_decode()


def _possible(worker: Any, batch: Any) -> bool:
    if worker.draft_token_num != 1 or worker.device != "cpu" or worker.enable_overlap:
        return False
    if not batch.forward_mode.is_decode():
        return False
    # What these need of a step, SGLang keeps up only where the step verifies.
    verifying = batch.return_logprob or batch.return_hidden_states or batch.has_grammar
    return not verifying and worker.model_runner.watermark_state is None
