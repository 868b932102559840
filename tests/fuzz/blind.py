"""Feeds mutated messages without looking where they go: fast, and the same for the same seed."""

from __future__ import annotations

import json
import logging
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import psutil
import structlog

from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS

# No message takes this long; one that does is a hang.
MESSAGE_LIMIT_S: Final = 5.0
# Memory is watched once caches and buffers are full.
WARM_SHARE: Final = 0.2
GROWTH_MAX_MIB: Final = 32.0
FINDINGS_MAX: Final = 20


class Hung(BaseException):
    """A message took longer than any may."""


@dataclass
class Report:
    """What a run came to."""

    target: str
    messages: int
    seconds: float = 0.0
    # By where it was raised: the first message that did it, in hex, and the end of the trace.
    findings: dict[str, tuple[str, str]] = field(default_factory=dict)
    warm_mib: float = 0.0
    last_mib: float = 0.0

    @property
    def grew_mib(self) -> float:
        return self.last_mib - self.warm_mib


def run(name: str, messages: int, seed: int) -> Report:
    """Feed so many messages to one target. Seeds go first, as they are: they must pass too."""
    target = TARGETS[name]()
    mutator = Mutator(random.Random(seed))
    seeds = target.seeds()
    report = Report(name, messages)
    begun_s = time.monotonic()
    with _quiet(), _alarm():
        for count in range(messages):
            data = seeds[count] if count < len(seeds) else target.spoil(mutator.chance.choice(seeds), mutator)
            signal.setitimer(signal.ITIMER_REAL, MESSAGE_LIMIT_S)
            try:
                target.feed(data)
            except (Exception, Hung) as error:
                _keep(report, error, data)
                target = TARGETS[name]()
            if count == int(messages * WARM_SHARE):
                report.warm_mib = _rss_mib()
    report.last_mib = _rss_mib()
    report.seconds = time.monotonic() - begun_s
    return report


def _keep(report: Report, error: BaseException, data: bytes) -> None:
    trace = traceback.extract_tb(error.__traceback__)
    where = f"{type(error).__name__} in {trace[-1].name} ({Path(trace[-1].filename).name}:{trace[-1].lineno})"
    if len(report.findings) < FINDINGS_MAX:
        text = "".join(traceback.format_exception(error)[-6:])
        report.findings.setdefault(where, (data.hex(), text))


def _rss_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


@contextmanager
def _quiet() -> Iterator[None]:
    """Refusals are logged, a million of them here; a warning is an error, as in all tests."""
    configuration = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**configuration)


@contextmanager
def _alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _hung)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _hung(_number: int, _frame: FrameType | None) -> None:
    raise Hung(f"a message took over {MESSAGE_LIMIT_S:.0f} s")


if __name__ == "__main__":
    print(json.dumps(asdict(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
