"""Inside a scheduler: who decides the next few decode steps, and what came of them.

A server plays one variant, or several by turns of a few steps: ours, and fixed lengths. What differs between
two processes, where their memory lies and what else runs beside them, is the same for all of these. In a
fixed arm the worker keeps one length and none of our hooks does anything; our agent and the control service
are stopped then, so that each arm pays for its own.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import BaseModel

from benchmarks.processes import Reins
from benchmarks.results import Slice, Step
from benchmarks.servers import AGENT
from benchmarks.turn_clock import map_words
from benchmarks.variants import Variant, VariantKind
from sglang_patch.control import StepControl

# Environment variable with the plan, as JSON.
VARIABLE: Final = "TURBOSPEC_BENCH_ARMS"
OURS: Final = str(VariantKind.TURBOSPEC)
# The first step at another length pays for the change, which is the benchmark's doing.
SETTLE_STEPS: Final = 1

_STEP: Final = "_turbospec_bench_step"
_SCHEDULER: Final = "sglang.srt.managers.scheduler.Scheduler."


class ArmPlan(BaseModel):
    """What a scheduler is told.

    variants: by turns; the first is what the server was launched for. start: which of the benchmark's starts.
    switch: a file for `Switch`. logs: a folder; each cell's slices go to a file in it. service: a word in the
    control service's command.
    """

    variants: tuple[str, ...]
    slice_steps: int
    seed: int
    start: int
    switch: Path
    logs: Path
    service: str

    def bits(self, labels: Collection[str]) -> int:
        """Those of the variants that `labels` names, for `Switch.out`."""
        return sum(1 << bit for bit, variant in enumerate(self.variants) if variant in labels)

    def log(self, cell: int) -> Path:
        """Where the slices of one cell are."""
        return self.logs / f"{cell}.jsonl"

    def read(self, cell: int) -> list[Slice]:
        """The slices of one cell that are there by now."""
        log = self.log(cell)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [Slice.model_validate_json(line) for line in lines]


class Switch:
    """Three words that benchmark and scheduler share."""

    def __init__(self, path: Path) -> None:
        self._words = map_words(path, 3)

    @property
    def cell(self) -> int:
        """The number of the cell that is measured; 0 for none."""
        return self._words[0]

    @cell.setter
    def cell(self, cell: int) -> None:
        self._words[0] = cell

    @property
    def fixed(self) -> bool:
        """Whether an arm has its turn in which what serves ours besides is stopped."""
        return bool(self._words[1])

    @fixed.setter
    def fixed(self, fixed: bool) -> None:
        self._words[1] = fixed

    @property
    def out(self) -> int:
        """The variants that have no turn any more in this cell: one bit each, in the plan's order."""
        return self._words[2]

    @out.setter
    def out(self, out: int) -> None:
        self._words[2] = out


class Arms:
    """Decides whose the next steps are, and keeps what came of them."""

    def __init__(self, plan: ArmPlan, control_of: Callable[[Any], StepControl | None]) -> None:
        self._plan = plan
        self._control_of = control_of
        self._switch = Switch(plan.switch)
        self._settle = SETTLE_STEPS if len(plan.variants) > 1 else 0
        self._aside: Reins | None = None
        self._cell = 0
        self._order = self._sweeps()
        self._requests: dict[str, int] = {}
        self._left = 0
        self._skip = 0
        self._slice: Slice | None = None
        # Over, but with overlap scheduling the result of its last step is still to come.
        self._complete: Slice | None = None
        self._step: Step | None = None
        self._launched_ns = 0

    def run_batch(
        self, inner: Callable[..., Any], original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any
    ) -> Any:
        """Around a hook of the same name."""
        self.end_step()
        if not batch.forward_mode.is_decode():
            return inner(original, scheduler, batch, *args)
        if self._left == 0:
            self._next_slice(self._control_of(scheduler))
        self._left -= 1
        self._step = Step(num_steps=0, seconds=0.0, tokens={})
        self._launched_ns = time.monotonic_ns()
        result = inner(original, scheduler, batch, *args)
        setattr(result, _STEP, self._step)
        return result

    def process_batch_result(
        self,
        inner: Callable[..., Any],
        original: Callable[..., Any],
        scheduler: Any,
        batch: Any,
        result: Any,
        *args: Any,
    ) -> Any:
        """Around a hook of the same name."""
        step: Step | None = getattr(result, _STEP, None)
        if step is None:
            return inner(original, scheduler, batch, result, *args)
        requests = list(batch.reqs)
        before = list(map(_output_tokens, requests))
        returned = inner(original, scheduler, batch, result, *args)
        # Without speculation there is no such number.
        step.num_steps = (result.speculative_num_draft_tokens or 1) - 1
        for request, had in zip(requests, before, strict=True):
            number = self._requests.setdefault(request.rid, len(self._requests))
            step.tokens[number] = _output_tokens(request) - had
        return returned

    def end_step(self) -> None:
        """The step that runs is over: another batch is about to be launched, or the engine idles."""
        if self._step is None:
            return
        self._step.seconds = (time.monotonic_ns() - self._launched_ns) / 1e9
        if self._skip:
            self._skip -= 1
        elif self._slice is not None:
            self._slice.steps.append(self._step)
        self._step = None

    def _next_slice(self, control: StepControl | None) -> None:
        self._write()
        # A slice that the end of its cell cut into has an idle engine in it.
        self._complete = self._slice if self._switch.cell == self._cell else None
        self._slice = None
        if self._switch.cell != self._cell:
            self._cell = self._switch.cell
            self._order = self._sweeps()
        sweep, variant = next(self._order) if self._cell else (0, self._plan.variants[0])
        self._left = self._plan.slice_steps + self._settle
        self._skip = self._settle
        if self._cell:
            server, start = self._plan.variants[0], self._plan.start
            self._slice = Slice(server=server, start=start, sweep=sweep, variant=variant, steps=[])
        if control is not None:
            self._hand_over(control, Variant.parse(variant))

    def _sweeps(self) -> Iterator[tuple[int, str]]:
        """Endless: the number of the sweep, and each variant that is not out once, in an order of its own."""
        draw = random.Random(self._plan.seed)
        sweep = 0
        while True:
            sweep += 1
            out = self._switch.out
            left = [variant for bit, variant in enumerate(self._plan.variants) if not out >> bit & 1]
            for variant in draw.sample(left, len(left)):
                yield sweep, variant

    def _hand_over(self, control: StepControl, variant: Variant) -> None:
        if self._aside is None:
            self._aside = Reins(_pids(self._plan.service))
        fixed = variant.kind is VariantKind.FIXED
        # The word first: the benchmark may stop this process anywhere, and goes by it then.
        self._switch.fixed = fixed
        if not fixed:
            self._aside.go()
            control.silent = False
            return
        if not control.silent:
            # The step of ours that is still open ends here: with the next launch, as elsewhere. Its
            # record must not wait for our next arm.
            control.recorder.end(time.monotonic_ns(), idled=False)
            control.recorder.hand_over()
            control.silent = True
            self._aside.stop()
        control.num_steps = control.recorder.last_num_steps = variant.num_steps

    def _write(self) -> None:
        if self._complete is not None and self._complete.steps:
            with self._plan.log(self._cell).open("a", encoding="utf-8") as log:
                log.write(self._complete.model_dump_json() + "\n")
        self._complete = None


def install() -> None:
    """Put the arms around the scheduler's steps, if the environment has a plan; before SGLang has plugins."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    plan = ArmPlan.model_validate(json.loads(text))
    # Only now: the CPU kernels must be on the path first.
    from sglang_patch.hooks import attach  # noqa: PLC0415
    from sglang_patch.hooks import scheduler as hooks  # noqa: PLC0415

    arms = Arms(plan, attach.control_of)
    run_batch, process_batch_result, on_idle = hooks.run_batch, hooks.process_batch_result, hooks.on_idle

    def run(original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any) -> Any:
        return arms.run_batch(run_batch, original, scheduler, batch, *args)

    def process(original: Callable[..., Any], scheduler: Any, batch: Any, result: Any, *args: Any) -> Any:
        return arms.process_batch_result(process_batch_result, original, scheduler, batch, result, *args)

    def idle(_result: None, scheduler: Any) -> None:
        arms.end_step()
        on_idle(_result, scheduler)

    if OURS in plan.variants:
        # Our plugin registers them.
        hooks.run_batch, hooks.process_batch_result, hooks.on_idle = run, process, idle
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType  # noqa: PLC0415

    HookRegistry.register(_SCHEDULER + "run_batch", run, HookType.AROUND)
    HookRegistry.register(_SCHEDULER + "process_batch_result", process, HookType.AROUND)
    HookRegistry.register(_SCHEDULER + "on_idle", idle, HookType.AFTER)


def _output_tokens(request: Any) -> int:
    """Tokens that its client gets."""
    finished: int | None = request.finished_len
    return len(request.output_ids) if finished is None else finished


def _pids(service: str) -> list[int]:
    """Our agent in this scheduler, and the control service."""
    mine = [p.pid for p in psutil.Process().children(recursive=True) if AGENT in p.cmdline()]
    everybody = psutil.process_iter(["pid", "cmdline"])
    return mine + [p.info["pid"] for p in everybody if service in (p.info["cmdline"] or ())]
