"""NGRAM: the corpus always drafts the full tree; a step verifies its first ``num_steps + 1`` nodes.

The tree comes in breadth-first order, so a prefix of it is a tree. Buffers exist once
per width. What travels to the next step keeps the full width, because SGLang merges
and relays it by shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from sglang_patch.control import StepControl
from sglang_patch.hooks import plain_decode
from sglang_patch.hooks.attach import Attacher, carry, contained, control_of, guarded
from sglang_patch.hooks.eagle import timed
from sglang_patch.recorder import StepRecord

_BUFFERS: Final = (
    "retrieve_indexes_batch",
    "retrieve_next_token_batch",
    "retrieve_next_sibling_batch",
    "positions_batch",
    "draft_tokens_batch",
    "tree_mask_batch",
)
_WIDTHS: Final = "_turbospec_widths"


class Widths:
    """The worker's preallocated buffers, once per width, and the width in force."""

    def __init__(self, worker: Any, widths: tuple[int, ...]) -> None:
        self.full: int = worker.draft_token_num
        self._buffers: dict[int, dict[str, Any]] = {}
        for width in sorted({*widths, self.full}):
            worker.draft_token_num = width
            worker._init_preallocated_tensors()
            self._buffers[width] = {name: getattr(worker, name) for name in _BUFFERS}
        self.use(worker, self.full)

    def use(self, worker: Any, width: int) -> None:
        if worker.draft_token_num == width == worker.speculative_num_draft_tokens:
            return
        vars(worker).update(self._buffers[width])
        worker.draft_token_num = worker.speculative_num_draft_tokens = width


def attacher(attach: Attacher) -> Callable[..., None]:
    @contained
    def created(_result: None, worker: Any, *_args: Any, **_kwargs: Any) -> None:
        control = attach.attach(worker, worker.draft_token_num - 1)
        if control is not None:
            control.times_phases = worker.device == "cpu"
            carry(worker, control)

    return created


@contained
def allocated(_result: None, worker: Any, **_kwargs: Any) -> None:
    control = control_of(worker)
    if control is None:
        return
    as_launched = dict(vars(worker))
    try:
        setattr(worker, _WIDTHS, Widths(worker, tuple(k + 1 for k in control.candidates)))
    except Exception:
        vars(worker).update(as_launched)
        carry(worker, None)
        raise


def forward(original: Callable[..., Any], worker: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    control = control_of(worker)
    if control is None:
        return original(worker, batch, *args, **kwargs)
    # If this fails the worker keeps the width it has, which is a whole one.
    record = _set_width(control, worker, batch)
    start_ns = time.monotonic_ns()
    result = original(worker, batch, *args, **kwargs)
    if plain_decode.prepared(batch):
        # What it commits is to be drafted from all the same.
        worker._update_ngram_corpus(batch)
    _finish(control, worker, len(batch.reqs), result, record, start_ns)
    return result


@guarded
def _set_width(control: StepControl, worker: Any, batch: Any) -> StepRecord | None:
    """Apply the length in force; returns the record that is to have the phase times, if any."""
    decoding = batch.forward_mode.is_decode()
    widths: Widths = getattr(worker, _WIDTHS)
    widths.use(worker, control.num_steps + 1 if decoding else widths.full)
    return control.recorder.running if decoding and control.times_phases else None


@guarded
def _finish(
    control: StepControl, worker: Any, count: int, result: Any, record: StepRecord | None, start_ns: int
) -> None:
    # First: without it SGLang could not merge this batch with a new one.
    full = getattr(worker, _WIDTHS).full
    if worker.draft_token_num != full:
        _widen(result.next_draft_input, count, full)
    if record is not None:
        # What is not drafting is verifying: SGLang has no method of its own for it here.
        record.verify_ns = time.monotonic_ns() - start_ns - record.draft_ns


def prepare_draft_tokens(
    original: Callable[..., Any], worker: Any, batch: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Draft the full tree, hand on its first nodes.

    Returns:
        Tokens [batch * width] int64 and ancestor mask [batch * width * width] bool.
    """
    if control_of(worker) is None:
        drafted: tuple[np.ndarray, np.ndarray] = original(worker, batch)
        return drafted
    width, full = worker.draft_token_num, getattr(worker, _WIDTHS).full
    tokens, mask = _at_full_width(original, worker, batch)
    if width == full:
        return tokens, mask
    count = len(batch.reqs)
    tokens = tokens.reshape(count, full)[:, :width]
    mask = mask.reshape(count, full, full)[:, :width, :width]
    return np.ascontiguousarray(tokens).reshape(-1), np.ascontiguousarray(mask).reshape(-1)


def update_corpus(original: Callable[..., Any], worker: Any, batch: Any) -> None:
    # Reads what _prepare_draft_tokens staged, which has the full width.
    if control_of(worker) is None:
        original(worker, batch)
    else:
        _at_full_width(original, worker, batch)


_prepare_timed = timed("draft_ns")


def prepare(original: Callable[..., Any], worker: Any, batch: Any) -> None:
    control = control_of(worker)
    if control is None or not plain_decode.prepare(control, worker, batch):
        _prepare_timed(original, worker, batch)


def _at_full_width(original: Callable[..., Any], worker: Any, batch: Any) -> Any:
    width = worker.draft_token_num
    worker.draft_token_num = getattr(worker, _WIDTHS).full
    try:
        return original(worker, batch)
    finally:
        worker.draft_token_num = width


def _widen(next_draft: Any, count: int, full: int) -> None:
    accepted = next_draft.accept_tokens.reshape(count, -1)
    next_draft.accept_tokens = torch.nn.functional.pad(accepted, (0, full - accepted.shape[1])).flatten()
    next_draft.draft_token_num = full
