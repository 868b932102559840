"""What a soak calls a fault, on synthetic samples; the soak itself is `make soak`."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from benchmarks.soak import _core_wait_s, _process_sample
from benchmarks.soak_report import MIB, ProcessSample, Sample, SoakResult, faults_of, losses_of, tables
from tests.unit.benchmarks.builders import result

SAMPLES = 240
INTERVAL_S = 5.0
NAMES = ("service", "scheduler", "agent")


def flat(at_s: float, drawn: random.Random) -> ProcessSample:
    wobble = drawn.gauss(0, 0.2) * MIB
    return ProcessSample(
        rss_bytes=int(100 * MIB + wobble), threads=9, descriptors=20, core_wait_s=at_s * 0.01
    )


def soaked(
    process: Callable[[float, ProcessSample], dict[str, Any]] = lambda at_s, sample: {},
    sample: Callable[[int], dict[str, Any]] = lambda number: {},
) -> SoakResult:
    drawn = random.Random(1)
    samples = []
    for number in range(SAMPLES):
        at_s = number * INTERVAL_S
        usual = {name: flat(at_s, drawn) for name in NAMES}
        usual["service"] = usual["service"].model_copy(update=process(at_s, usual["service"]))
        fields: dict[str, Any] = {
            "at_s": at_s,
            "clients": 1,
            "processes": usual,
            "steps": 500 * (number + 1),
            "fallbacks_by_reason": {"disconnected": 3},
            "drops_by_cause": {},
            "waited_for_lease_us_max": 0.0,
        }
        samples.append(Sample(**{**fields, **sample(number)}))
    return SoakResult(environment=result().environment, minutes=20, warmup_s=240, samples=samples)


def test_nothing_grows_and_the_connection_is_explained() -> None:
    found = soaked()
    assert faults_of(found) == []
    (connecting,) = losses_of(found)
    assert (connecting.reason, connecting.count, connecting.explained) == ("disconnected", 3, True)
    assert SoakResult.model_validate_json(found.model_dump_json()) == found
    assert "before the first lease" in tables(found)[1].to_markdown()


def test_a_leak_of_memory_is_a_fault() -> None:
    found = soaked(lambda at_s, sample: {"rss_bytes": sample.rss_bytes + int(20 * MIB * at_s / 3_600)})
    assert [fault.split(" by ")[0] for fault in faults_of(found)] == ["service: memory grows"]


def test_growth_below_the_bound_is_none() -> None:
    assert not faults_of(soaked(lambda at_s, s: {"rss_bytes": s.rss_bytes + int(2 * MIB * at_s / 3_600)}))


def test_growth_while_it_warms_up_is_none() -> None:
    assert not faults_of(
        soaked(lambda at_s, s: {"rss_bytes": s.rss_bytes + int(50 * MIB * min(at_s, 200) / 200)})
    )


@pytest.mark.parametrize(("name", "word"), [("threads", "threads"), ("descriptors", "descriptors")])
def test_more_threads_or_descriptors_in_the_second_half_are_a_fault(name: str, word: str) -> None:
    found = soaked(lambda at_s, sample: {name: getattr(sample, name) + int(at_s / 100)})
    assert [fault for fault in faults_of(found) if f"service: {word} grew" in fault]


def late(count_from: int) -> Callable[[int], dict[str, Any]]:
    return lambda number: {
        "fallbacks_by_reason": {"disconnected": 3, "overdue": 4 if number >= count_from else 0}
    }


def test_a_late_answer_is_explained_by_a_core_that_was_not_to_be_had() -> None:
    """10 ms without a core for each of two processes in every interval: enough for four steps."""
    found = soaked(sample=late(100))
    assert faults_of(found) == []
    assert {one.explanation for one in losses_of(found)} == {
        "before the first lease",
        "no core for agent or service",
    }


def test_a_late_answer_of_a_process_that_had_its_core_is_unexplained() -> None:
    found = soaked(sample=late(100))
    for sample in found.samples:
        for process in sample.processes.values():
            process.core_wait_s = 0.0
    assert faults_of(found) == ["4 without explanation: overdue"]


def test_a_lost_connection_in_the_middle_is_unexplained() -> None:
    found = soaked(sample=lambda number: {"fallbacks_by_reason": {"disconnected": 3 if number < 100 else 9}})
    assert faults_of(found) == ["6 without explanation: disconnected"]


def test_lost_records_and_failed_requests_are_faults() -> None:
    found = soaked(sample=lambda number: {"drops_by_cause": {"engine": 2}})
    found.failed_requests = 1
    assert faults_of(found) == ["2 without explanation: record dropped: engine", "1 requests failed"]


def test_this_very_process_can_be_sampled() -> None:
    sample = _process_sample(psutil.Process())
    assert sample.rss_bytes > MIB
    assert sample.threads >= 1
    assert sample.descriptors >= 3
    assert _core_wait_s(os.getpid()) >= 0.0
