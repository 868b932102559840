"""Makes the shipped acceptance traces: `python -m benchmarks.traces.generate`.

Synthetic requests with the statistics of measured ones (Llama-3.1-8B-Instruct with EAGLE-3 and with
n-gram drafting, on grade-school maths and on news summaries). The numbers below are all that was
taken from the measurement. How a request is made:

- Prompt and output length: lognormal, correlated.
- A request is more or less predictable: a normal deviate each for EAGLE-3 and n-gram, correlated. The
  start of an output is less predictable; this fades over the first `ramp` of it.
- EAGLE-3: an entry is 1 + the drafts accepted. A fresh one is geometric. After an entry above 1 the
  next one is mostly one less, because the draft from one position further sees the same tokens, and
  otherwise fresh.
- n-gram: mostly 1. After a 1, now and then, the output starts to repeat the past; then entries count
  down, from at most NGRAM_MAX, until the repetition ends. Its length is a mixture of two geometrics.

Only `random.Random.random` is drawn from, whose stream Python keeps stable.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

REQUESTS = 100
EAGLE3_MAX = 18
NGRAM_MAX = 21
HERE = Path(__file__).parent
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Lengths:
    """Lognormal lengths: mean and deviation of the logarithm, bounds, correlation of the two."""

    prompt_log_mean: float
    prompt_log_sd: float
    output_log_mean: float
    output_log_sd: float
    output_min: int
    output_max: int
    correlation: float


@dataclass(frozen=True)
class Eagle3:
    """rate: P(one more draft accepted) of a fresh entry, at the median request; rate_sd: of its logit
    between requests. counts_down, counts_down_from_2: P(next entry is one less)."""

    rate: float
    rate_sd: float
    counts_down: float
    counts_down_from_2: float
    ramp_logit: float


@dataclass(frozen=True)
class Ngram:
    """start: P(a repetition starts after a 1), at the median request; start_sd: of its logit between
    requests. short_rate, long_rate: P(a repetition goes on), of the two kinds; long_share: of the long."""

    start: float
    start_sd: float
    short_rate: float
    long_rate: float
    long_share: float
    ramp_logit: float


@dataclass(frozen=True)
class Style:
    """One kind of traffic."""

    name: str
    seed: int
    lengths: Lengths
    eagle3: Eagle3
    ngram: Ngram
    correlation: float
    ramp: float


CHAT = Style(
    name="chat",
    seed=2,
    lengths=Lengths(4.52, 0.22, 5.06, 0.33, 45, 420, 0.46),
    eagle3=Eagle3(rate=0.67, rate_sd=0.22, counts_down=0.58, counts_down_from_2=0.36, ramp_logit=-0.25),
    ngram=Ngram(
        start=0.080, start_sd=0.48, short_rate=0.44, long_rate=0.79, long_share=0.21, ramp_logit=-1.0
    ),
    correlation=0.5,
    ramp=0.4,
)
SUMMARY = Style(
    name="summary",
    seed=3,
    lengths=Lengths(6.62, 0.47, 5.72, 0.37, 95, 660, 0.73),
    eagle3=Eagle3(rate=0.66, rate_sd=0.25, counts_down=0.64, counts_down_from_2=0.47, ramp_logit=-0.25),
    ngram=Ngram(
        start=0.118, start_sd=0.51, short_rate=0.51, long_rate=0.875, long_share=0.36, ramp_logit=-1.0
    ),
    correlation=0.5,
    ramp=0.4,
)
STYLES = (CHAT, SUMMARY)


def generate(style: Style, requests: int = REQUESTS) -> list[dict[str, object]]:
    """Requests of one style, the same every time."""
    draw = random.Random(style.seed)
    return [_request(style, number, draw) for number in range(requests)]


def text_of(style: Style) -> str:
    """The trace file of one style, JSON lines."""
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in generate(style))


def _request(style: Style, number: int, draw: random.Random) -> dict[str, object]:
    lengths = style.lengths
    first, second = _normal(draw), _normal(draw)
    prompt = math.exp(lengths.prompt_log_mean + lengths.prompt_log_sd * first)
    mixed = _correlated(lengths.correlation, first, second)
    output = round(math.exp(lengths.output_log_mean + lengths.output_log_sd * mixed))
    output = min(max(output, lengths.output_min), lengths.output_max)
    shared = _normal(draw)
    other = _correlated(style.correlation, shared, _normal(draw))
    ramp = [max(0.0, 1.0 - place / (style.ramp * output)) for place in range(output)]
    return {
        "id": f"{style.name}-{number}",
        "prompt_tokens": max(round(prompt), 1),
        "generated_tokens": output,
        "eagle3": _eagle3(style.eagle3, shared, ramp, draw),
        "ngram": _ngram(style.ngram, other, ramp, draw),
    }


def _eagle3(terms: Eagle3, deviate: float, ramp: list[float], draw: random.Random) -> list[int]:
    entries = [1]
    base = _logit(terms.rate) + terms.rate_sd * deviate
    for early in ramp[1:]:
        entry = entries[-1]
        down = terms.counts_down if entry > 2 else terms.counts_down_from_2
        if entry > 1 and draw.random() < down:
            entries.append(entry - 1)
        else:
            rate = _sigmoid(base + terms.ramp_logit * early)
            entries.append(min(1 + _geometric(rate, draw), EAGLE3_MAX))
    return entries


def _ngram(terms: Ngram, deviate: float, ramp: list[float], draw: random.Random) -> list[int]:
    entries, left = [1], 0
    base = _logit(terms.start) + terms.start_sd * deviate
    for early in ramp[1:]:
        if entries[-1] == 1 and draw.random() < _sigmoid(base + terms.ramp_logit * early):
            long = draw.random() < terms.long_share
            left = 1 + _geometric(terms.long_rate if long else terms.short_rate, draw)
        entries.append(min(1 + left, NGRAM_MAX))
        left = max(left - 1, 0)
    return entries


def _geometric(rate: float, draw: random.Random) -> int:
    """How often an event of probability `rate` happens in a row."""
    return int(math.log(1.0 - draw.random()) / math.log(rate))


def _normal(draw: random.Random) -> float:
    return _NORMAL.inv_cdf(min(max(draw.random(), 1e-12), 1.0 - 1e-12))


def _correlated(correlation: float, first: float, second: float) -> float:
    return correlation * first + math.sqrt(1.0 - correlation * correlation) * second


def _logit(rate: float) -> float:
    return math.log(rate / (1.0 - rate))


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


def main() -> None:
    """Write the traces, beside this file unless told otherwise."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--directory", type=Path, default=HERE)
    directory = parser.parse_args().directory
    for style in STYLES:
        path = directory / f"{style.name}.jsonl"
        path.write_text(text_of(style), encoding="utf-8")
        print(f"{path}: {REQUESTS} requests")


if __name__ == "__main__":
    main()
