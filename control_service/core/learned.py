"""What the models have learned, as plain values that outlive the process.

A snapshot is taken between events and costs a copy of arrays; making plain values of it and
reading them again may take milliseconds and touches nothing that is shared.

Loaded evidence counts less than fresh: every sample is one half-life older and every acceptance
count is halved, so that the load and the machine of today correct yesterday's within a few dozen steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from control_service.core.acceptance import AcceptanceModel
from control_service.core.models import EngineModels
from control_service.core.samples import MAX_REGIMES, SAMPLES_PER_REGIME, SampleArrays
from control_service.core.step_fit import AGE_HALF_LIFE_STEPS
from control_service.core.step_time import StepTimeModel
from control_service.core.types import EngineProfile
from control_service.core.validation import (
    MAX_BATCH,
    MAX_CONTEXT_TOKENS,
    MAX_STEP_SECONDS,
    InvalidFieldError,
)

# Grows with every change of the meaning or shape of the state; others are refused.
STATE_VERSION = 1

LOADED_AGE_STEPS = int(AGE_HALF_LIFE_STEPS)
LOADED_COUNT_SHARE = 0.5
SAMPLES_MAX = MAX_REGIMES * SAMPLES_PER_REGIME
# A tenth of a microsecond; more digits are noise.
SECONDS_DIGITS = 7
SECONDS_MIN = 10.0**-SECONDS_DIGITS
COUNT_DIGITS = 3
MAX_COUNT = 1e12
MAX_STEPS = 1 << 53


class AcceptanceSnapshot(NamedTuple):
    """By rate of the model: Beta counts, and steps since it was observed last; by length: where the last
    rate's counts came from.
    """

    accepted: tuple[float, ...]
    rejected: tuple[float, ...]
    steps_since: tuple[int, ...]
    inside_by_length: tuple[float, ...]


class LearnedSnapshot(NamedTuple):
    """The models of one profile at one moment."""

    lengths: tuple[int, ...]
    bucket_sizes: tuple[int, ...]
    generation: int
    acceptance: AcceptanceSnapshot
    first_step_acceptance: AcceptanceSnapshot
    samples: SampleArrays


def snapshot_of(models: EngineModels) -> LearnedSnapshot:
    """A copy that later steps do not change."""
    return LearnedSnapshot(
        lengths=models.lengths,
        bucket_sizes=models.buckets.sizes,
        generation=models.generation,
        acceptance=_acceptance_snapshot(models.acceptance),
        first_step_acceptance=_acceptance_snapshot(models.first_step_acceptance),
        samples=models.step_time._samples.arrays(models.step_time._clock),
    )


def state_of(snapshot: LearnedSnapshot) -> dict[str, Any]:
    """Plain values of a snapshot, fit for JSON."""
    samples = snapshot.samples
    return {
        "lengths": list(snapshot.lengths),
        "bucket_sizes": list(snapshot.bucket_sizes),
        "generation": snapshot.generation,
        "acceptance": _acceptance_state(snapshot.acceptance),
        "first_step_acceptance": _acceptance_state(snapshot.first_step_acceptance),
        "samples": {
            "length_index": samples.length_index.tolist(),
            "bucket_index": samples.bucket_index.tolist(),
            "paid_size": samples.paid_size.astype(np.int64).tolist(),
            "context_tokens": samples.context_tokens.astype(np.int64).tolist(),
            "seconds": np.maximum(np.round(samples.seconds, SECONDS_DIGITS), SECONDS_MIN).tolist(),
            "age_steps": samples.age_steps.astype(np.int64).tolist(),
        },
    }


def models_from_state(state: dict[str, Any], profile: EngineProfile) -> EngineModels:
    """Models that know what the state tells, fitted and ready to decide by.

    Raises InvalidFieldError at the first field that is odd or not of this profile; `profile`
    must have passed `check_profile`.
    """
    models = EngineModels(profile)
    _check_names("state", state, LearnedSnapshot._fields)
    _check_same("lengths", state["lengths"], models.lengths)
    _check_same("bucket_sizes", state["bucket_sizes"], models.buckets.sizes)
    models.generation = _integers("generation", [state["generation"]], 1, 1, MAX_STEPS)[0]
    for name, model in (
        ("acceptance", models.acceptance),
        ("first_step_acceptance", models.first_step_acceptance),
    ):
        _restore_acceptance(model, _checked_acceptance(name, state[name], model))
    samples = _checked_samples(state["samples"], len(models.lengths), len(models.buckets.sizes))
    _restore_samples(models.step_time, models.lengths, samples)
    models.refit()
    if models.forecaster is None:
        raise InvalidFieldError(
            "samples",
            f"{len(samples.seconds)} of them",
            f"enough for a fit: {models.step_time.not_ready_reason}",
        )
    return models


def _acceptance_snapshot(model: AcceptanceModel) -> AcceptanceSnapshot:
    counts = [rate.counts() for rate in model.rates]
    return AcceptanceSnapshot(
        accepted=tuple(accepted for accepted, _ in counts),
        rejected=tuple(rejected for _, rejected in counts),
        steps_since=tuple(rate.steps_since(model._clock) for rate in model.rates),
        inside_by_length=tuple(model._inside_by_length),
    )


def _acceptance_state(snapshot: AcceptanceSnapshot) -> dict[str, Any]:
    return {
        "accepted": [round(count, COUNT_DIGITS) for count in snapshot.accepted],
        "rejected": [round(count, COUNT_DIGITS) for count in snapshot.rejected],
        "steps_since": list(snapshot.steps_since),
        "inside_by_length": [round(count, COUNT_DIGITS) for count in snapshot.inside_by_length],
    }


def _restore_acceptance(model: AcceptanceModel, known: AcceptanceSnapshot) -> None:
    """What came lately is gone: a first departure is from what was loaded."""
    model._clock = max(known.steps_since, default=0)
    for rate, steps, accepted, rejected in zip(
        model.rates, known.steps_since, known.accepted, known.rejected, strict=True
    ):
        rate.restore(model._clock - steps, LOADED_COUNT_SHARE * accepted, LOADED_COUNT_SHARE * rejected)
    model._inside_by_length = [LOADED_COUNT_SHARE * count for count in known.inside_by_length]


def _restore_samples(model: StepTimeModel, lengths: tuple[int, ...], samples: SampleArrays) -> None:
    """Oldest first, as they were once observed."""
    oldest = int(samples.age_steps.max(initial=0.0)) + LOADED_AGE_STEPS
    model._clock = oldest
    order = np.argsort(-samples.age_steps, kind="stable")
    columns = (column[order].tolist() for column in samples)
    for length_index, bucket_index, paid_size, context_tokens, seconds, age in zip(*columns, strict=True):
        model._samples.add(
            length_index=length_index,
            bucket_index=bucket_index,
            paid_size=int(paid_size),
            context_tokens=int(context_tokens),
            seconds=seconds,
            now=oldest - LOADED_AGE_STEPS - int(age),
        )
        length, cell = lengths[length_index], (length_index, bucket_index)
        model._seen_by_length[length] = model._seen_by_length.get(length, 0) + 1
        model._counts[cell] = model._counts.get(cell, 0) + 1


def _checked_acceptance(field: str, state: Any, model: AcceptanceModel) -> AcceptanceSnapshot:
    _check_names(field, state, AcceptanceSnapshot._fields)
    rates, lengths = len(model.rates), len(model._inside_by_length)

    def counts(name: str, count: int) -> tuple[float, ...]:
        return tuple(_numbers(f"{field}.{name}", state[name], count, 0.0, MAX_COUNT))

    return AcceptanceSnapshot(
        accepted=counts("accepted", rates),
        rejected=counts("rejected", rates),
        steps_since=tuple(_integers(f"{field}.steps_since", state["steps_since"], rates, 0, MAX_STEPS)),
        inside_by_length=counts("inside_by_length", lengths),
    )


def _checked_samples(state: Any, length_count: int, bucket_count: int) -> SampleArrays:
    _check_names("samples", state, SampleArrays._fields)
    seconds = state["seconds"]
    count = len(seconds) if isinstance(seconds, list) else 0
    if count > SAMPLES_MAX:
        raise InvalidFieldError("samples.seconds", f"{count} of them", f"at most {SAMPLES_MAX}")

    def integers(name: str, low: int, high: int) -> list[int]:
        return _integers(f"samples.{name}", state[name], count, low, high)

    return SampleArrays(
        length_index=np.array(integers("length_index", 0, length_count - 1), dtype=np.int64),
        bucket_index=np.array(integers("bucket_index", 0, bucket_count - 1), dtype=np.int64),
        paid_size=np.array(integers("paid_size", 1, MAX_BATCH), dtype=np.float64),
        context_tokens=np.array(integers("context_tokens", 0, MAX_CONTEXT_TOKENS), dtype=np.float64),
        seconds=np.array(
            _numbers("samples.seconds", seconds, count, 10.0**-SECONDS_DIGITS, MAX_STEP_SECONDS)
        ),
        age_steps=np.array(integers("age_steps", 0, MAX_STEPS), dtype=np.float64),
    )


def _check_names(field: str, value: Any, names: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise InvalidFieldError(field, type(value).__name__, "an object")
    if value.keys() != set(names):
        raise InvalidFieldError(field, sorted(value)[: len(names) + 1], f"the fields {sorted(names)}")


def _check_same(field: str, value: Any, wanted: tuple[int, ...]) -> None:
    if value != list(wanted):
        raise InvalidFieldError(field, value, f"those of the profile, {wanted}")


def _integers(field: str, values: Any, count: int, low: int, high: int) -> list[int]:
    checked: list[int] = _list(field, values, count)
    for value in checked:
        if type(value) is not int or not low <= value <= high:
            raise InvalidFieldError(field, value, f"integers from {low} to {high}")
    return checked


def _numbers(field: str, values: Any, count: int, low: float, high: float) -> list[float]:
    checked: list[float] = _list(field, values, count)
    for value in checked:
        # Not a number is not between any two.
        if type(value) not in (int, float) or not low <= value <= high:
            raise InvalidFieldError(field, value, f"finite numbers from {low:g} to {high:g}")
    return checked


def _list(field: str, values: Any, count: int) -> list[Any]:
    if not isinstance(values, list):
        raise InvalidFieldError(field, type(values).__name__, "a list")
    if len(values) != count:
        raise InvalidFieldError(field, f"{len(values)} values", f"{count} values")
    return values
