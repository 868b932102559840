"""Acceptance by decree: SGLang's own simulation, with a rate that follows the clock."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "TURBOSPEC_BENCH_ACCEPTANCE"
# Turns SGLang's simulation on; how much is accepted is then drawn by `RateSchedule`.
SIMULATION: Final = {"SGLANG_SIMULATE_ACC_LEN": "1", "SGLANG_SIMULATE_ACC_TOKEN_MODE": "fixed"}
ALLOWED: Final = "RATE or RATE:SECONDS,RATE:SECONDS,... with rates from 0 to 1 and seconds above 0"


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """Rates that each hold for some seconds, round and round, by the machine's monotonic clock.

    >>> RateSchedule.parse("0.4:10,0.8:20").at(15.0)
    0.8
    """

    rates: tuple[float, ...]
    ends_s: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> RateSchedule:
        """From `0.6` or `0.4:15,0.8:15`.

        Raises:
            ValueError: naming what is allowed.
        """
        parts = [part.partition(":") for part in text.split(",")]
        try:
            rates = tuple(float(rate) for rate, _, _ in parts)
            seconds = [math.inf if len(parts) == 1 and not s else float(s) for _, _, s in parts]
        except ValueError:
            raise ValueError(f"{VARIABLE}={text!r}: allowed is {ALLOWED}") from None
        if not all(0.0 <= rate <= 1.0 for rate in rates) or not all(s > 0.0 for s in seconds):
            raise ValueError(f"{VARIABLE}={text!r}: allowed is {ALLOWED}")
        return cls(rates, tuple(itertools.accumulate(seconds)))

    def at(self, now_s: float) -> float:
        """The rate in force."""
        place = now_s % self.ends_s[-1] if math.isfinite(self.ends_s[-1]) else 0.0
        return next(rate for rate, end_s in zip(self.rates, self.ends_s, strict=True) if place < end_s)

    def sampler(self, clock: Callable[[], float] = time.monotonic) -> Callable[[float, str, int], int]:
        """Stands in for SGLang's `sample_simulated_acc_len`: tokens of one step, the bonus included.

        Each draft is accepted with the rate in force if the one before it was. SGLang gives the
        whole batch one draw.
        """
        drawn = random.Random(0)

        def sample(_length: float, _method: str, max_len: int) -> int:
            rate, count = self.at(clock()), 1
            while count < max_len and drawn.random() < rate:
                count += 1
            return count

        return sample
