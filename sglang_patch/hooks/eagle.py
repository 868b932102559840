"""EAGLE and STANDALONE: SGLang already swaps run-time states per length; ours is the policy that picks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from sglang.srt.speculative.adaptive_runtime_state import AdaptiveController

from sglang_patch.control import StepControl
from sglang_patch.hooks.attach import Attacher, carry, contained, control_of

logger = logging.getLogger(__name__)


class ControlledLength:
    """SGLang's ``AdaptiveSpecPolicy``: answers with the length in force."""

    def __init__(self, control: StepControl) -> None:
        self._control = control
        # The launch length needs a state even where it is no candidate: modes off and shadow run it.
        self._lengths = sorted({*control.candidates, control.launch_num_steps})

    @property
    def candidate_steps(self) -> list[int]:
        return self._lengths

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None:
        self._control.graph_batch_sizes = tuple(cuda_graph_bs or ())

    def cuda_graph_bs_for_step(self, _step: int) -> list[int] | None:
        # None: any length may meet any batch size, so every graph is captured.
        return None

    def get_steps_for_batch(self, _batch_size: int) -> int:
        return self._control.num_steps

    def on_verify_complete(self, _num_correct_drafts_per_req: list[int], _batch_size: int) -> int | None:
        # SGLang does not say which step these counts are of; ours come with the step's record.
        return None


def attacher(attach: Attacher) -> Callable[..., None]:
    @contained
    def created(_result: None, worker: Any, *_args: Any, **_kwargs: Any) -> None:
        if worker.adaptive_controller is not None:
            logger.error(
                "turbospec: no control over this engine: --speculative-adaptive has it. Drop that flag."
            )
            return
        control = attach.attach(worker, worker.speculative_num_steps)
        if control is None:
            return
        worker.adaptive_controller = AdaptiveController(worker, ControlledLength(control))
        # Only now that its length can be applied: a worker that carries a control is taken to be controlled.
        carry(worker, control)
        if worker.device == "cpu":
            # The phases are host time, which on a GPU is only the time to launch them.
            carry(worker._draft_worker, control)
            control.times_phases = True

    return created


def timed(phase_ns: str) -> Callable[..., Any]:
    """An AROUND hook that adds a phase's host time to the running step's record."""

    def hook(original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> Any:
        control = control_of(owner)
        if control is None or not control.times_phases or control.silent:
            return original(owner, *args, **kwargs)
        start_ns = time.monotonic_ns()
        result = original(owner, *args, **kwargs)
        try:
            record = control.recorder.running
            if record is not None:
                setattr(record, phase_ns, time.monotonic_ns() - start_ns)
        except Exception:
            control.fail(phase_ns)
        return result

    return hook


draft = timed("draft_ns")
verify = timed("verify_ns")
draft_extend = timed("draft_extend_ns")
