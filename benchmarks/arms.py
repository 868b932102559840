"""Inside one scheduler: short slices of steps under our control and of steps at fixed lengths, by turns.

What differs between two processes, where their memory lies and what else runs beside them, is the same for
all arms here. In a fixed arm the worker keeps one length and none of our hooks does anything; our agent and
the service are stopped then, so that each arm pays for its own.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import BaseModel

from benchmarks.processes import Reins
from benchmarks.results import Record
from benchmarks.servers import AGENT
from benchmarks.turn_clock import WORD_BYTES, map_word
from benchmarks.variants import Variant, VariantKind
from sglang_patch.control import StepControl

# Environment variable with the plan, as JSON.
VARIABLE: Final = "TURBOSPEC_BENCH_ARMS"
OURS: Final = str(VariantKind.TURBOSPEC)
# The first step at another length pays for the change, which is the benchmark's doing.
SETTLE_STEPS: Final = 1


class ArmPlan(BaseModel):
    """What the scheduler is told. lengths: of the fixed arms. switch: a file of one word, the cell that is
    measured, 0 for none. log: where slices go. service: a word in the control service's command."""

    lengths: tuple[int, ...]
    slice_steps: int
    seed: int
    switch: Path
    log: Path
    service: str


class Steps(Record):
    """Decode steps of one batch size and length in one slice, from launch to the next launch."""

    batch_size: int
    num_steps: int
    steps: int = 0
    tokens: float = 0
    seconds: float = 0.0


class Slice(Record):
    """Steps of one arm in a row. In a sweep every arm has one slice."""

    cell: int
    sweep: int
    arm: str
    steps: list[Steps]


class Switch:
    """The word that says which cell is measured."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(WORD_BYTES))
        self._word = map_word(path)

    @property
    def cell(self) -> int:
        return self._word[0]

    @cell.setter
    def cell(self, cell: int) -> None:
        self._word[0] = cell


class Arms:
    """Decides whose the next steps are, and keeps what came of them."""

    def __init__(self, plan: ArmPlan, control_of: Callable[[Any], StepControl | None]) -> None:
        self._plan = plan
        self._control_of = control_of
        self._switch = Switch(plan.switch)
        self._names = (OURS, *(Variant(VariantKind.FIXED, length).label for length in plan.lengths))
        self._order = _sweeps(self._names, plan.seed)
        self._aside: Reins | None = None
        self._cell = 0
        self._sweep, self._arm = 0, OURS
        self._left = 0
        self._skip = 0
        self._steps: dict[tuple[int, int], Steps] = {}
        # The step that runs: launch, batch size, then length and tokens.
        self._launched_ns = 0
        self._batch_size = 0
        self._num_steps = -1
        self._tokens = 0

    def run_batch(
        self, ours: Callable[..., Any], original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any
    ) -> Any:
        """Around our hook of the same name."""
        self.end_step()
        decodes = batch.forward_mode.is_decode()
        control = self._control_of(scheduler)
        if decodes and control is not None:
            if self._left == 0:
                self._next_slice(control)
            self._left -= 1
            self._batch_size = len(batch.reqs)
            self._launched_ns = time.perf_counter_ns()
        return ours(original, scheduler, batch, *args)

    def process_batch_result(
        self,
        ours: Callable[..., Any],
        original: Callable[..., Any],
        scheduler: Any,
        batch: Any,
        result: Any,
        *args: Any,
    ) -> Any:
        """Around our hook of the same name."""
        if not self._launched_ns:
            return ours(original, scheduler, batch, result, *args)
        requests = list(batch.reqs)
        before = sum(map(_output_tokens, requests))
        returned = ours(original, scheduler, batch, result, *args)
        self._tokens = sum(map(_output_tokens, requests)) - before
        self._num_steps = result.speculative_num_draft_tokens - 1
        return returned

    def end_step(self) -> None:
        """The step that runs is over: another batch is about to be launched, or the engine idles."""
        if not self._launched_ns:
            return
        seconds = (time.perf_counter_ns() - self._launched_ns) / 1e9
        self._launched_ns = 0
        if self._skip:
            self._skip -= 1
            return
        key = (self._batch_size, self._num_steps)
        steps = self._steps.setdefault(key, Steps(batch_size=key[0], num_steps=key[1]))
        steps.steps += 1
        steps.tokens += self._tokens
        steps.seconds += seconds

    def _next_slice(self, control: StepControl) -> None:
        self._write()
        if self._switch.cell != self._cell:
            self._cell = self._switch.cell
            self._order = _sweeps(self._names, self._plan.seed)
        self._sweep, self._arm = next(self._order) if self._cell else (0, OURS)
        self._left = self._plan.slice_steps + SETTLE_STEPS
        self._skip = SETTLE_STEPS
        if self._aside is None:
            self._aside = Reins(_aside(self._plan.service))
        if self._arm == OURS:
            self._aside.go()
            control.silent = False
            return
        if not control.silent:
            # The step of ours that is still open ends here.
            control.idle()
            control.silent = True
            self._aside.stop()
        control.num_steps = Variant.parse(self._arm).num_steps

    def _write(self) -> None:
        # A slice that the end of its cell cut into has an idle engine in it.
        if self._cell and self._cell == self._switch.cell and self._steps:
            slice_ = Slice(
                cell=self._cell, sweep=self._sweep, arm=self._arm, steps=list(self._steps.values())
            )
            with self._plan.log.open("a", encoding="utf-8") as log:
                log.write(slice_.model_dump_json() + "\n")
        self._steps = {}


def install() -> None:
    """Put the arms around our hooks, if the environment has a plan; before SGLang registers the hooks."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    # Only now: the CPU kernels must be on the path first.
    from sglang_patch.hooks import attach  # noqa: PLC0415
    from sglang_patch.hooks import scheduler as hooks  # noqa: PLC0415

    arms = Arms(ArmPlan.model_validate(json.loads(text)), attach.control_of)
    run_batch, process_batch_result, on_idle = hooks.run_batch, hooks.process_batch_result, hooks.on_idle

    def run(original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any) -> Any:
        return arms.run_batch(run_batch, original, scheduler, batch, *args)

    def process(original: Callable[..., Any], scheduler: Any, batch: Any, result: Any, *args: Any) -> Any:
        return arms.process_batch_result(process_batch_result, original, scheduler, batch, result, *args)

    def idle(_result: None, scheduler: Any) -> None:
        arms.end_step()
        on_idle(_result, scheduler)

    hooks.run_batch, hooks.process_batch_result, hooks.on_idle = run, process, idle


def _sweeps(arms: tuple[str, ...], seed: int) -> Iterator[tuple[int, str]]:
    """Endless: the number of the sweep, and each arm once in it, in an order of its own."""
    draw = random.Random(seed)
    sweep = 0
    while True:
        sweep += 1
        for arm in draw.sample(arms, len(arms)):
            yield sweep, arm


def _output_tokens(request: Any) -> int:
    """Tokens that its client gets."""
    finished: int | None = request.finished_len
    return len(request.output_ids) if finished is None else finished


def _aside(service: str) -> list[int]:
    """Our agent in this scheduler, and the control service."""
    mine = [p.pid for p in psutil.Process().children(recursive=True) if AGENT in p.cmdline()]
    everybody = psutil.process_iter(["pid", "cmdline"])
    return mine + [p.info["pid"] for p in everybody if service in (p.info["cmdline"] or ())]
