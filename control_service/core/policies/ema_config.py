"""The `ema` policy's slots from what an operator gives: SGLang's adaptive config as JSON, or nothing.

`config` is the text of the file that SGLang takes as `--speculative-adaptive-config`: keys
made of digits are the first batch sizes of slots, other keys are defaults for all slots.
Lengths must be candidates of the engine. Without it the slots are SGLang's defaults, less the
lengths that this engine cannot run.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace

from control_service.core.policies.ema import DEFAULT_SLOTS, SlotConfig
from control_service.core.policies.parse import MAX_TABLE_ENTRIES, MAX_TEXT
from control_service.core.validation import MAX_BATCH, InvalidFieldError

FIELD = "parameters.config"
HYSTERESIS_MAX = 64.0
CEILING_MAX = 64.0
COUNT_MAX = 1_000_000
_KNOWN = frozenset(field.name for field in fields(SlotConfig))


def default_slots(candidates: tuple[int, ...]) -> dict[int, SlotConfig]:
    """SGLang's table as far as the engine's candidates go. Raises InvalidFieldError."""
    slots = {}
    for size, slot in DEFAULT_SLOTS.items():
        lengths = tuple(length for length in slot.candidate_steps if length in candidates)
        if not lengths:
            raise InvalidFieldError(
                FIELD,
                "",
                f"given: of SGLang's default lengths {slot.candidate_steps} at batch size {size}"
                f" none is a candidate of {candidates}",
            )
        slots[size] = replace(slot, candidate_steps=lengths)
    return slots


def parse_slots(text: str, candidates: tuple[int, ...]) -> dict[int, SlotConfig]:
    """SGLang's config file, given as text. Raises InvalidFieldError."""
    config = _parse_object(text)
    common = {key: value for key, value in config.items() if not key.isdigit()}
    slots = {}
    for key, entry in config.items():
        if not key.isdigit():
            continue
        if not key.isascii() or len(key) > 9 or not 1 <= int(key) <= MAX_BATCH:
            raise InvalidFieldError(FIELD, key, f"batch sizes of 1 to {MAX_BATCH} as keys of slots")
        if not isinstance(entry, dict):
            raise InvalidFieldError(f"{FIELD}.{key}", entry, "an object")
        slots[int(key)] = _slot(f"{FIELD}.{key}", {**common, **entry}, candidates)
    if not 1 <= len(slots) <= MAX_TABLE_ENTRIES:
        raise InvalidFieldError(FIELD, sorted(slots), f"1 to {MAX_TABLE_ENTRIES} slots keyed by batch size")
    return slots


def _parse_object(text: str) -> dict[str, object]:
    allowed = f"SGLang's adaptive config, a JSON object of at most {MAX_TEXT} characters"
    if len(text) > MAX_TEXT:
        raise InvalidFieldError(FIELD, text[:64], allowed)
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidFieldError(FIELD, text[:64], f"{allowed} ({error})") from error
    if not isinstance(config, dict):
        raise InvalidFieldError(FIELD, text[:64], allowed)
    return config


def _slot(field: str, entry: dict[str, object], candidates: tuple[int, ...]) -> SlotConfig:
    unknown = sorted(entry.keys() - _KNOWN)
    if unknown:
        raise InvalidFieldError(field, unknown, f"among {sorted(_KNOWN)}")
    default = SlotConfig(_lengths(f"{field}.candidate_steps", entry.get("candidate_steps"), candidates))

    def number(name: str, low: float, high: float) -> float:
        return _number(f"{field}.{name}", entry.get(name, getattr(default, name)), low, high)

    def count(name: str, least: int) -> int:
        return _count(f"{field}.{name}", entry.get(name, getattr(default, name)), least)

    return SlotConfig(
        candidate_steps=default.candidate_steps,
        ema_alpha=number("ema_alpha", 0.0, 1.0),
        update_interval=count("update_interval", 1),
        warmup_batches=count("warmup_batches", 0),
        up_hysteresis=number("up_hysteresis", -HYSTERESIS_MAX, HYSTERESIS_MAX),
        down_hysteresis=number("down_hysteresis", -HYSTERESIS_MAX, HYSTERESIS_MAX),
        ceiling_coeff=number("ceiling_coeff", 0.0, CEILING_MAX),
    )


def _lengths(field: str, value: object, candidates: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidFieldError(field, value, f"a list of candidates {candidates}")
    for length in value:
        if not isinstance(length, int) or isinstance(length, bool) or length not in candidates:
            raise InvalidFieldError(field, length, f"one of the candidates {candidates}")
    return tuple(sorted(set(value)))


def _number(field: str, value: object, low: float, high: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise InvalidFieldError(field, value, f"a number of {low:g} to {high:g}")


def _count(field: str, value: object, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= COUNT_MAX:
        return value
    raise InvalidFieldError(field, value, f"a whole number of {least} to {COUNT_MAX}")
