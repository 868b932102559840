"""A world made from the recorded steps of a real engine.

A step trace knows neither what would have been accepted beyond the length that ran nor who the
requests were. So:

- Acceptance: per-position conditional rates, from the steps that proposed the position, over spans of
  the recording that hold enough of them. Replay draws each entry anew from the rates of its time; what
  ties the steps of one request together beyond that is lost. First steps after a prefill are left out.
- Step time: the linear model of `step_times`, fitted to steps whose length had not just changed
  (non-negative, relative errors, outliers left out in a second round), times a table of the median
  error by length and batch size, which holds what is not linear. A batch size between two of the
  table is interpolated, a length that never ran has only the fit.
- Noise: the scatter about that, and the share of steps beyond twice the fit.
- Concurrency, unless it is given: the batch size below which the engine spent half of its time.
- Requests: mean output from tokens committed by first steps flagged, mean prompt from the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from control_service.core.types import StepObservation
from control_service.replay.errors import ReplayInputError, input_error
from control_service.replay.sources import AcceptanceSpan, RequestSizes, SyntheticSource
from control_service.replay.step_times import (
    DraftTerms,
    LinearStepTimes,
    NoiseTerms,
    Number,
    StepTimeFile,
    VerifyTerms,
)
from control_service.store.step_trace import StepTrace

FloatArray = npt.NDArray[np.float64]
DRAFTER = "recorded"

SPAN_TRIALS_MIN = 500
SPAN_SECONDS_MIN = 2.0
STEPS_MIN = 50
TABLE_STEPS_MIN = 8
OUTLIER_RATIO = 2.0
# Output lengths spread by this share about their mean.
SIZE_SPREAD = 0.5


class RecordedTimes:
    """The fitted linear model, corrected by the table."""

    def __init__(self, file: StepTimeFile, table: dict[int, tuple[FloatArray, FloatArray]]) -> None:
        """table: for each length that ran, batch sizes ascending and the correction at each."""
        self._linear = LinearStepTimes(file, DRAFTER)
        self._table = table

    def seconds(self, batch_size: Number, num_steps: int, context_tokens: Number) -> Number:
        """See StepTimes."""
        seconds = self._linear.seconds(batch_size, num_steps, context_tokens)
        if num_steps not in self._table:
            return seconds
        return seconds * np.interp(batch_size, *self._table[num_steps])

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """Not recorded."""
        return 0.0


class RecordedEngine(NamedTuple):
    """What replay needs of one engine."""

    name: str
    source: SyntheticSource
    times: RecordedTimes
    noise: NoiseTerms
    candidates: tuple[int, ...]
    usual_batch_size: int


def engine_from_trace(where: str, trace: StepTrace, engine_id: str | None) -> RecordedEngine:
    """The world of one engine of a recording: the only one, or the one named. Raises ReplayInputError.

    Epochs count together as long as their profiles agree with the newest in all but the epoch.
    """
    known = sorted({profile.engine_id for profile in trace.engines})
    if engine_id is None and len(known) == 1:
        engine_id = known[0]
    if engine_id not in known:
        raise input_error(where, "--engine", engine_id, f"one of {known}")
    newest = max((p for p in trace.engines if p.engine_id == engine_id), key=lambda profile: profile.epoch)
    alike = {p.epoch for p in trace.engines if p.learned_key() == newest.learned_key()}
    steps = sorted(
        (traced for traced in trace.steps if traced.engine_id == engine_id and traced.epoch in alike),
        key=lambda traced: (traced.epoch, traced.step.step_index),
    )
    return engine_from_steps(engine_id, newest.candidate_num_steps, [traced.step for traced in steps])


def engine_from_steps(
    name: str, candidates: tuple[int, ...], steps: Sequence[StepObservation]
) -> RecordedEngine:
    """The world of one engine from its steps in order. Raises ReplayInputError where they say too little."""
    where = f"recorded engine {name}"
    if len(steps) < STEPS_MIN:
        raise input_error(where, "steps", len(steps), f"at least {STEPS_MIN}")
    steady = [step for step in steps if not step.changed_length]
    lengths = sorted({step.num_steps for step in steady})
    if len(lengths) < 2:
        raise input_error(
            where, "num_steps", lengths, "two lengths or more: one tells nothing of what another costs"
        )
    file, noise = _fit(steady)
    times = RecordedTimes(file, _table(steady, LinearStepTimes(file, DRAFTER)))
    source = SyntheticSource(_spans(where, steps), _sizes(steps))
    return RecordedEngine(name, source, times, noise, candidates, _usual_batch_size(steps))


def _usual_batch_size(steps: Sequence[StepObservation]) -> int:
    """That below which the engine spent half of its time."""
    by_size = sorted((step.batch_size, step.duration_s) for step in steps)
    spent_s = np.cumsum([duration_s for _, duration_s in by_size])
    return by_size[int(np.searchsorted(spent_s, spent_s[-1] / 2.0))][0]


def _fit(steps: Sequence[StepObservation]) -> tuple[StepTimeFile, NoiseTerms]:
    """The linear model and the noise about it."""
    batch, length, context, seconds = (
        np.array(column, dtype=np.float64)
        for column in zip(
            *((step.batch_size, step.num_steps, step.context_tokens, step.duration_s) for step in steps),
            strict=True,
        )
    )
    columns = np.stack(
        [context, batch * (length + 1), np.ones_like(batch), context * length, batch * length, length], axis=1
    )
    relative = columns / seconds[:, None]
    # Columns differ by orders of magnitude; nnls wants them alike.
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-12)
    chosen = np.ones(len(steps), dtype=np.bool_)
    terms = np.zeros(columns.shape[1])
    for _ in range(2):
        terms = nnls(relative[chosen] / scale, np.ones(int(chosen.sum())))[0] / scale
        error = seconds / np.maximum(columns @ terms, 1e-9)
        chosen = error < OUTLIER_RATIO * np.median(error)
    scatter = np.log(error[chosen])
    noise = NoiseTerms(
        lognormal_sigma=min(float(1.4826 * np.median(np.abs(scatter - np.median(scatter)))), 1.0),
        outlier_share=min(float(1.0 - chosen.mean()), 0.5),
        outlier_factor=max(float(np.median(error[~chosen])), 1.0) if not chosen.all() else 1.0,
    )
    verify = VerifyTerms(context_s_per_token=terms[0], token_s=terms[1], fixed_s=terms[2])
    draft = DraftTerms(context_s_per_token=terms[3], token_s=terms[4], fixed_s=terms[5])
    return StepTimeFile(verify=verify, draft={DRAFTER: draft}, noise=noise), noise


def _table(
    steps: Sequence[StepObservation], linear: LinearStepTimes
) -> dict[int, tuple[FloatArray, FloatArray]]:
    errors: dict[int, dict[int, list[float]]] = {}
    for step in steps:
        fitted = linear.seconds(float(step.batch_size), step.num_steps, float(step.context_tokens))
        cell = errors.setdefault(step.num_steps, {}).setdefault(step.batch_size, [])
        cell.append(step.duration_s / fitted)
    table = {}
    for length, by_size in errors.items():
        sizes = sorted(size for size, found in by_size.items() if len(found) >= TABLE_STEPS_MIN)
        if sizes:
            medians = [float(np.median(by_size[size])) for size in sizes]
            table[length] = (np.array(sizes, dtype=np.float64), np.array(medians))
    return table


class _Counts:
    """Trials and accepted drafts by position."""

    def __init__(self, positions: int) -> None:
        self.trials = np.zeros(positions)
        self.accepted = np.zeros(positions)
        self.seconds = 0.0

    def add(self, step: StepObservation) -> None:
        """One step; requests in their first step count as time only."""
        self.seconds += step.duration_s
        pairs = zip(step.accepted_drafts, step.first_step, strict=True)
        alive = np.array([count for count, first in pairs if not first])
        for position in range(step.num_steps):
            reached = int((alive >= position).sum())
            self.trials[position] += reached
            self.accepted[position] += int((alive > position).sum())


def _spans(where: str, steps: Sequence[StepObservation]) -> tuple[AcceptanceSpan, ...]:
    positions = max(step.num_steps for step in steps)
    whole, current = _Counts(positions), _Counts(positions)
    parts = []
    for step in steps:
        whole.add(step)
        current.add(step)
        if current.trials[:1].sum() >= SPAN_TRIALS_MIN and current.seconds >= SPAN_SECONDS_MIN:
            parts.append(current)
            current = _Counts(positions)
    known = int((whole.trials > 0).sum())
    if not known:
        raise ReplayInputError(f"{where}: accepted_drafts: no step proposed any; must be some that did")
    overall = (whole.accepted[:known] + 0.5) / (whole.trials[:known] + 1.0)
    if not parts:
        return (AcceptanceSpan(tuple(overall.tolist()), whole.seconds),)
    return tuple(AcceptanceSpan(_rates(part, overall), part.seconds) for part in parts)


def _rates(part: _Counts, overall: FloatArray) -> tuple[float, ...]:
    """Of one span, leaning on the whole recording where the span says little."""
    known, strength = len(overall), 10.0
    return tuple(((part.accepted[:known] + strength * overall) / (part.trials[:known] + strength)).tolist())


def _sizes(steps: Sequence[StepObservation]) -> RequestSizes:
    requests = sum(sum(step.first_step) for step in steps)
    tokens = sum(step.batch_size + sum(step.accepted_drafts) for step in steps)
    running = sum(step.batch_size for step in steps)
    # A recording of long requests from their middle may hold no first step at all.
    output = tokens / max(requests, running / len(steps))
    context = sum(step.context_tokens for step in steps) / running
    prompt = max(round(context - output / 2.0), 1)
    spread = (max(round(output * (1.0 - SIZE_SPREAD)), 1), max(round(output * (1.0 + SIZE_SPREAD)), 1))
    return RequestSizes((prompt, prompt), spread)
