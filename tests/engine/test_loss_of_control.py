"""The control service dies, then hangs, in mid run: same outputs, length 0, and control again by itself."""

import threading
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.engine.conftest import CANDIDATES, Launch
from tests.support.collector import Collector
from tests.support.control_process import ControlProcess
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names

VALID_FOR_STEPS = 16
STEADY_STEPS = 30


def test_sigkill_restart_and_sigstop_in_mid_run(
    launch: Launch,
    prompts: list[str],
    plain_outputs: list[list[int]],
    tmp_path: Path,
) -> None:
    service = ControlProcess(tmp_path, valid_for_steps=VALID_FOR_STEPS)
    service.start()
    collector = Collector(service.address)
    environment = {
        "TURBOSPEC_CONTROL_ADDRESS": service.address,
        "TURBOSPEC_OTLP_ADDRESS": collector.start(tmp_path / "otlp.sock"),
        "TURBOSPEC_CANDIDATES": ",".join(map(str, CANDIDATES)),
        "TURBOSPEC_EXPORT_INTERVAL_MS": "20",
    }
    server = launch("STANDALONE", environment).wait_ready()
    outputs: list[list[list[int]]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            outputs.append(server.generate_many(prompts, 80))

    client = threading.Thread(target=load)
    client.start()
    try:
        assert eventually(lambda: newest(collector) == [names.SOURCE_LEASE] * STEADY_STEPS, 60)
        service.kill()
        assert eventually(lambda: newest(collector) == [names.SOURCE_FALLBACK] * STEADY_STEPS, 60)
        service.start()
        assert eventually(lambda: newest(collector) == [names.SOURCE_LEASE] * STEADY_STEPS, 60)
        service.pause()
        assert eventually(lambda: newest(collector) == [names.SOURCE_FALLBACK] * STEADY_STEPS, 60)
        service.resume()
        assert eventually(lambda: newest(collector) == [names.SOURCE_LEASE] * STEADY_STEPS, 60)
    finally:
        stop.set()
        client.join()
        server.stop()
        service.stop()
        collector.stop()

    assert outputs
    assert all(output == plain_outputs for output in outputs), "no request lost, no token different"
    spans = collector.spans()
    lost = [span for span in spans if span[names.DECISION_SOURCE] == names.SOURCE_FALLBACK]
    assert all(span[names.NUM_STEPS] == 0 for span in lost)
    assert all(span[names.FALLBACK_REASON] for span in lost)
    assert_no_lease_outlives_its_steps(spans)
    # A dead service costs one deadline at most, then nothing.
    assert sum(span[names.DECISION_WAIT_US] > 0 for span in longest_loss(spans)) <= 1


def newest(collector: Collector) -> list[str]:
    """Where the lengths of the newest steps came from."""
    return [span[names.DECISION_SOURCE] for span in collector.spans()[-STEADY_STEPS:]]


def assert_no_lease_outlives_its_steps(spans: list[dict[str, Any]]) -> None:
    """A decision is applied to as many steps in a row as its lease said; a lost link ends it at once."""
    led = [span for span in spans if span[names.DECISION_SOURCE] == names.SOURCE_LEASE]
    for _, steps in groupby(led, key=lambda span: span[names.DECISION_ID]):
        assert len(list(steps)) <= VALID_FOR_STEPS


def longest_loss(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The longest run of steps without control: the time between kill and restart."""
    runs: list[list[dict[str, Any]]] = [[]]
    for span in spans:
        if span[names.DECISION_SOURCE] == names.SOURCE_FALLBACK:
            runs[-1].append(span)
        elif runs[-1]:
            runs.append([])
    return max(runs, key=len)
