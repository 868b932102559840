"""Step boundaries: where a decode step begins, where its result arrives, where the engine idles."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final

from sglang_patch.control import StepControl
from sglang_patch.hooks.attach import carry, control_of, guarded
from sglang_patch.profile import engine_profile
from sglang_patch.recorder import StepRecord

logger = logging.getLogger(__name__)

# Attribute under which a batch's result carries its step's record from launch to processing.
_RECORD: Final = "_turbospec_record"


def started(_result: None, scheduler: Any, *_args: Any, **_kwargs: Any) -> None:
    """SGLang's scheduler is complete: from here on threads and channels may be made."""
    control = control_of(scheduler.model_worker)
    if control is None:
        logger.warning(
            "turbospec: nothing to control: this engine runs without a supported speculative worker"
        )
        return
    carry(scheduler, control)
    _start(control, scheduler)


@guarded
def _start(control: StepControl, scheduler: Any) -> None:
    control.start(engine_profile(scheduler, control))


def run_batch(original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    control = control_of(scheduler)
    if control is None or control.silent:
        return original(scheduler, batch, *args, **kwargs)
    try:
        record = _begin(control, scheduler, batch, monotonic_ns())
    except Exception:
        control.fail("_begin")
        record = None
    result = original(scheduler, batch, *args, **kwargs)
    if record is not None:
        setattr(result, _RECORD, record)
    return result


def process_batch_result(
    original: Callable[..., Any], scheduler: Any, batch: Any, result: Any, *args: Any, **kwargs: Any
) -> Any:
    record: StepRecord | None = getattr(result, _RECORD, None)
    control = control_of(scheduler)
    if record is None or control is None or control.silent:
        return original(scheduler, batch, result, *args, **kwargs)
    # SGLang may let requests go.
    requests = batch.reqs
    returned = original(scheduler, batch, result, *args, **kwargs)
    try:
        _processed(control, record, requests, result, monotonic_ns())
    except Exception:
        control.fail("_processed")
    return returned


def on_idle(_result: None, scheduler: Any) -> None:
    control = control_of(scheduler)
    if control is not None and not control.silent:
        _idle(control)


def _begin(control: StepControl, scheduler: Any, batch: Any, now_ns: int) -> StepRecord | None:
    # Host values only: the lengths on the device would cost a sync. Under overlap scheduling the
    # host copy may not be there yet; 0 tells the service that the context is not known.
    lengths = batch.seq_lens_cpu
    context_tokens = sum(lengths.tolist()) if lengths is not None else 0
    waiting = len(scheduler.waiting_queue)
    batch_size = len(batch.reqs)
    if batch.forward_mode.is_decode():
        record = control.begin(batch_size, context_tokens, waiting, now_ns, idled=scheduler._sched_idled)
        record.control_ns = monotonic_ns() - now_ns - record.decision.wait_ns
        return record
    running = scheduler.running_batch
    decoding = len(running.reqs) if running is not None else 0
    if decoding:
        # The decode step that follows runs both.
        known = running.seq_lens_cpu
        context_tokens = context_tokens + sum(known.tolist()) if known is not None else 0
    control.begin_other(batch_size + decoding, context_tokens, waiting, now_ns, idled=scheduler._sched_idled)
    return None


def _processed(
    control: StepControl, record: StepRecord, requests: list[Any], result: Any, now_ns: int
) -> None:
    """All of a step that is known by now is taken in one call: with cold caches each entry costs anew."""
    num_steps = result.speculative_num_draft_tokens - 1
    accepted = result.num_correct_drafts_per_req_cpu
    record.first_step, record.after_full_accept = control.accept_history.take(requests, num_steps, accepted)
    record.control_ns += monotonic_ns() - now_ns
    control.processed(record, num_steps, accepted, now_ns)


@guarded
def _idle(control: StepControl) -> None:
    control.idle()
