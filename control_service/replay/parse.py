"""Numbers and lists as they are written on the command line. Everything raises ReplayInputError."""

from __future__ import annotations

import math
import re

from pydantic import ValidationError

from control_service.replay.errors import input_error
from control_service.replay.load import CONCURRENCY_MAX, SECONDS_MAX
from control_service.replay.sources import AcceptanceSpan
from control_service.replay.step_times import DriftTerms

SEEDS_MAX = 1_000


def parse_concurrencies(text: str) -> tuple[int, ...]:
    """`1,4,16`."""
    allowed = f"batch sizes of 1 to {CONCURRENCY_MAX}, as in 1,4,16"
    values = tuple(int(part) if part.isdecimal() else 0 for part in text.split(","))
    if not all(1 <= value <= CONCURRENCY_MAX for value in values):
        raise input_error("replay", "--concurrency", text, allowed)
    return values


def parse_phases(text: str) -> tuple[tuple[int, float], ...]:
    """`1:10,64:10` as (concurrency, seconds) pairs."""
    allowed = f"CONCURRENCY:SECONDS pairs, concurrency 1 to {CONCURRENCY_MAX}, as in 1:10,64:10"
    phases = []
    for part in text.split(","):
        concurrency, _, seconds_text = part.partition(":")
        seconds = _number(seconds_text)
        if not concurrency.isdecimal() or not 1 <= int(concurrency) <= CONCURRENCY_MAX:
            raise input_error("replay", "--phases", part, allowed)
        if not 0.0 < seconds <= SECONDS_MAX:
            raise input_error("replay", "--phases", part, allowed)
        phases.append((int(concurrency), seconds))
    return tuple(phases)


def parse_acceptance(text: str) -> tuple[AcceptanceSpan, ...]:
    """`0.05`, or a schedule `0:30,0.7:30`; the last span may go on for ever."""
    allowed = "RATE or RATE:SECONDS,RATE:SECONDS,..., rates of 0 to 1, as in 0.05 or 0:30,0.7:30"
    spans = []
    parts = text.split(",")
    for place, part in enumerate(parts):
        rate_text, colon, seconds_text = part.partition(":")
        last = place == len(parts) - 1
        seconds = _number(seconds_text) if colon else (math.inf if last else math.nan)
        rate = _number(rate_text)
        if not 0.0 <= rate <= 1.0 or not seconds > 0.0:
            raise input_error("replay", "--acceptance", part, allowed)
        spans.append(AcceptanceSpan((rate,), seconds))
    return tuple(spans)


def parse_drift(text: str) -> DriftTerms:
    """`1,1,1.25,1.5:1` as factors on step times, and the mean seconds that one of them lasts."""
    allowed = "FACTOR,FACTOR,...:SECONDS, factors of 0.1 to 10, as in 1,1,1.25,1.5:1"
    factors, _, mean = text.partition(":")
    try:
        return DriftTerms(factors=tuple(map(_number, factors.split(","))), mean_s=_number(mean))
    except ValidationError as error:
        raise input_error("replay", "--drift", text, allowed) from error


def parse_seeds(text: str) -> tuple[int, ...]:
    """`1-5`, `1,2,7` or both."""
    allowed = f"whole numbers or ranges, at most {SEEDS_MAX} in all, as in 1-5 or 1,2,7"
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if found is None:
            raise input_error("replay", "--seeds", text, allowed)
        first, last = int(found[1]), int(found[2] or found[1])
        if not 0 <= last - first < SEEDS_MAX - len(seeds):
            raise input_error("replay", "--seeds", text, allowed)
        seeds.extend(range(first, last + 1))
    return tuple(dict.fromkeys(seeds))


def _number(text: str) -> float:
    """NaN for what is no number: no comparison with it holds."""
    try:
        return float(text)
    except ValueError:
        return math.nan
