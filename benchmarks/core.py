"""Cost of the control core on one CPU core: a decision, an observed step, a refit.

Run as `python -m benchmarks.core` or `turbospec bench core`. Times the real session as the
service calls it, without gRPC and telemetry decoding around it:

- fresh decision: the first after a refit, which has to compute its table anew;
- cached decision: the same batch again, the common case;
- observed step: validation, counters, models and policy, for a step of the full batch;
- refit: both models frozen anew from everything kept.

Rounds are interleaved, so that a busy neighbour hits all of them. Every call is timed
on its own; shown are the median over rounds of each round's median [lowest..highest round]
and of its 99th percentile.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import environment
from benchmarks.results import Environment, Record
from benchmarks.spread import Spread, percentile
from control_service.core.models import EngineModels
from control_service.core.policies.make import make_policy
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import EngineProfile, Mode, StepObservation, StepQuery

FORMAT_VERSION = 1
BARS_US = {"fresh decision": 200.0, "cached decision": 200.0, "observed step": 50.0}
CAPTURED_SIZES = (1, 2, 4, 8, *range(16, 257, 16))
CONTEXT_TOKENS_PER_REQUEST = 1_000
# Enough to fill the kept samples of every regime that is visited.
LEARNED_STEPS = 6_000
LOAD_HOLDS_STEPS = 200
LENGTH_HOLDS_STEPS = 20

app = typer.Typer(add_completion=False, help=__doc__)


class OperationCost(Record):
    """Microseconds of every round: its median and its 99th percentile."""

    median_us: list[float]
    p99_us: list[float]


class CoreResult(Record):
    """What a run leaves behind."""

    format_version: int = FORMAT_VERSION
    environment: Environment
    policy: str
    batch_size: int
    candidate_lengths: list[int]
    calls_per_round: int
    operations: dict[str, OperationCost]


class Operation(NamedTuple):
    """One thing to time. `prepare` makes the next call's argument and is not timed."""

    name: str
    prepare: Callable[[], object]
    call: Callable[[object], object]


class SyntheticEngine:
    """An endless run of valid steps of a plausible engine, and the questions before them."""

    def __init__(self, lengths: int, batch_size: int) -> None:
        self.profile = EngineProfile(
            engine_id="bench",
            epoch=1,
            sglang_version="",
            plugin_version="",
            target_model="target",
            draft_model="draft",
            dtype="",
            accelerator="",
            tensor_parallel_size=1,
            data_parallel_size=1,
            pipeline_parallel_size=1,
            algorithm="EAGLE",
            topk=1,
            candidate_num_steps=tuple(range(lengths)),
            graph_batch_sizes=(*(size for size in CAPTURED_SIZES if size < batch_size), batch_size),
            max_running_requests=batch_size,
            launch_num_steps=lengths - 1,
        )
        self._batch_size = batch_size
        self._random = random.Random(1)
        self._step_index = 0
        self._num_steps = lengths - 1

    def load(self) -> int:
        """A batch size that holds for a while, then another: learning sees many regimes."""
        phase = self._step_index // LOAD_HOLDS_STEPS
        return max(1, self._batch_size >> (phase % (self._batch_size.bit_length())))

    def step(self, batch_size: int) -> StepObservation:
        """The next step that was served."""
        self._step_index += 1
        previous = self._num_steps
        if self._step_index % LENGTH_HOLDS_STEPS == 0:
            self._num_steps = self._random.choice(self.profile.candidate_num_steps)
        length = self._num_steps
        tokens = batch_size * (length + 1)
        duration_s = 0.008 * (1.0 + 0.1 * length) + 4e-6 * tokens + 2e-8 * batch_size * 1_000.0
        return StepObservation(
            step_index=self._step_index,
            batch_size=batch_size,
            context_tokens=batch_size * CONTEXT_TOKENS_PER_REQUEST + self._step_index % 1_000,
            waiting_requests=0,
            num_steps=length,
            previous_num_steps=previous,
            start_s=0.01 * self._step_index,
            duration_s=duration_s * math.exp(self._random.gauss(0.0, 0.05)),
            accepted_drafts=tuple(self._accepted(length) for _ in range(batch_size)),
            first_step=(False,) * batch_size,
            source="lease",
            fallback_reason="",
            decision_id=self._step_index,
            decision_wait_us=0.0,
            control_us=40.0,
            dropped_records=0,
            after_full_accept=tuple(self._random.random() < 0.2 for _ in range(batch_size)),
        )

    def query(self, batch_size: int) -> StepQuery:
        """The question before the next step, with a context that has hardly moved."""
        return StepQuery(self._step_index + 1, batch_size, batch_size * CONTEXT_TOKENS_PER_REQUEST, 0)

    def _accepted(self, length: int) -> int:
        count = 0
        while count < length and self._random.random() < 0.7:
            count += 1
        return count


def trained_session(engine: SyntheticEngine, policy: str, learned_steps: int) -> EngineSession:
    """A session that has served enough of every load to be as slow as it gets."""
    profile = engine.profile
    session = EngineSession(
        profile,
        mode=Mode.ENFORCE,
        policy=make_policy(policy, {}, profile),
        models=EngineModels(profile),
        terms=LeaseTerms(),
    )
    for _ in range(learned_steps):
        batch_size = engine.load()
        session.decide(engine.query(batch_size))
        session.observe(engine.step(batch_size))
        if session.needs_refit:
            session.refit()
    return session


def operations(session: EngineSession, engine: SyntheticEngine, batch_size: int) -> list[Operation]:
    """What is timed, at the full batch."""

    def after_refit() -> object:
        session.observe(engine.step(batch_size))
        session.refit()
        return engine.query(batch_size)

    def after_decision() -> object:
        query = engine.query(batch_size)
        session.decide(query)
        return query

    decide: Callable[[object], object] = session.decide  # type: ignore[assignment]
    observe: Callable[[object], object] = session.observe  # type: ignore[assignment]
    return [
        Operation("fresh decision", after_refit, decide),
        Operation("cached decision", after_decision, decide),
        Operation("observed step", lambda: engine.step(batch_size), observe),
        Operation(
            "refit",
            lambda: session.observe(engine.step(batch_size)),
            lambda _: session.refit(),
        ),
    ]


def timed_us(operation: Operation, calls: int) -> list[float]:
    """Microseconds of each call."""
    times_us = []
    for _ in range(calls):
        argument = operation.prepare()
        started_ns = time.perf_counter_ns()
        operation.call(argument)
        times_us.append((time.perf_counter_ns() - started_ns) / 1e3)
    return times_us


def measure(
    policy: str, lengths: int, batch_size: int, rounds: int, calls: int, learned_steps: int = LEARNED_STEPS
) -> CoreResult:
    """All operations, round by round."""
    engine = SyntheticEngine(lengths, batch_size)
    session = trained_session(engine, policy, learned_steps)
    wanted = operations(session, engine, batch_size)
    costs = {operation.name: OperationCost(median_us=[], p99_us=[]) for operation in wanted}
    for _ in range(rounds):
        for operation in wanted:
            # What setting up left behind is not this operation's to clean up.
            gc.collect()
            times_us = timed_us(operation, calls)
            costs[operation.name].median_us.append(percentile(times_us, 50) or 0.0)
            costs[operation.name].p99_us.append(percentile(times_us, 99) or 0.0)
    return CoreResult(
        environment=environment.describe("none"),
        policy=policy,
        batch_size=batch_size,
        candidate_lengths=list(engine.profile.candidate_num_steps),
        calls_per_round=calls,
        operations=costs,
    )


def as_table(result: CoreResult) -> Table:
    """One row an operation."""
    table = Table(
        title=f"{result.policy}, batch {result.batch_size}, {len(result.candidate_lengths)} lengths,"
        f" one core of {result.environment.cpu_model}, commit {result.environment.git_commit}"
    )
    for heading in ("operation", "median us [lo..hi]", "p99 us [lo..hi]", "per second", "bar us"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    for name, cost in result.operations.items():
        median, p99 = Spread.of(cost.median_us), Spread.of(cost.p99_us)
        assert median is not None
        assert p99 is not None
        bar = BARS_US.get(name)
        verdict = "-" if bar is None else f"{bar:.0f} {'met' if median.middle <= bar else 'MISSED'}"
        table.add_row(name, _spread(median), _spread(p99), f"{1e6 / median.middle:,.0f}", verdict)
    return table


def _spread(spread: Spread) -> str:
    return f"{spread.middle:,.1f} [{spread.low:,.1f}..{spread.high:,.1f}]"


@app.command()
def main(
    *,
    policy: Annotated[str, typer.Option(help="goodput, ema or turbospec.")] = "goodput",
    lengths: Annotated[int, typer.Option(min=2, max=32, help="Candidate lengths, 0 included.")] = 8,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Requests in the batch.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 9,
    calls: Annotated[int, typer.Option(min=20, help="Timed calls of each operation and round.")] = 300,
    output: Annotated[Path | None, typer.Option(help="Keep the result as JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Time the control core on one CPU core."""
    # One core, as the service has: numpy must not spread out, nor the scheduler move us about.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    result = measure(policy, lengths, batch, rounds, calls)
    if output is not None:
        output.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        Console(width=120, highlight=False).print(as_table(result))


if __name__ == "__main__":
    app()
