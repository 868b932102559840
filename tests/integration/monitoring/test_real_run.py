"""Engines under control, scraped by a real Prometheus with our rules: dashboards have data, alerts come, go.

Rules, delays and intervals are the checked-in ones with all durations divided by SPEED_UP.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from dashboards.check import ask, table
from tests.integration.service.synthetic_engine import export_request, make_span
from tests.support.background import Background
from tests.support.busy_engine import BusyEngine
from tests.support.engine_server import free_port
from tests.support.monitoring import SPEED_UP, Monitoring
from tests.support.wait import eventually
from turbospec.v1 import control_pb2, control_pb2_grpc

ENGINE = "engine-a"
DOWN = "TurboSpecServiceDown"
PATIENCE_S = 60.0


class Run(NamedTuple):
    """What runs: the service can be killed, paused and started again."""

    service: Background
    address: str
    engines: tuple[BusyEngine, ...]
    monitoring: Monitoring


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("monitoring")
    address, port = f"unix:{directory}/control.sock", free_port()
    with ExitStack() as stack:
        service = _service(directory, address, port)
        service.start()
        stack.callback(service.stop)
        monitoring = Monitoring(directory, port)
        stack.callback(monitoring.stop)
        monitoring.start()
        engines = (BusyEngine(address, ENGINE), BusyEngine(address, "engine-b"))
        for engine in engines:
            engine.start()
            stack.callback(engine.stop)
        yield Run(service, address, engines, monitoring)


def _service(directory: Path, address: str, port: int) -> Background:
    return Background(
        [sys.executable, "-m", "control_service"],
        directory / "control.log",
        is_ready=lambda: _scraped(f"http://127.0.0.1:{port}/metrics"),
        environment={
            "TURBOSPEC_SERVICE_LISTEN": address,
            "TURBOSPEC_SERVICE_METRICS_LISTEN": f"127.0.0.1:{port}",
        },
    )


def _scraped(url: str) -> bool:
    try:
        return "turbospec_build_info" in httpx.get(url, timeout=1).text
    except httpx.HTTPError:
        return False


def test_prometheus_sees_engines_that_are_paid_for_speculating(run: Run) -> None:
    assert eventually(
        lambda: len(run.monitoring.instant("engine_id:turbospec_payoff:ratio_rate5m > 1.2")) == 2, PATIENCE_S
    )
    for alert in (DOWN, "TurboSpecSpeculationHurting"):
        assert run.monitoring.alert_state(alert) == "inactive"


def test_a_service_that_stops_for_a_moment_shows_as_fallbacks(run: Run) -> None:
    run.service.pause()
    before = run.engines[0].steps
    try:
        assert eventually(lambda: run.engines[0].steps > before + 50, PATIENCE_S)
    finally:
        run.service.resume()
    share = f'engine_id:turbospec_steps_without_lease:ratio_rate5m{{engine_id="{ENGINE}"}} > 0'
    assert eventually(lambda: bool(run.monitoring.instant(share)), PATIENCE_S)


def test_a_span_that_breaks_the_contract_shows_as_dropped(run: Run) -> None:
    span = make_span(1, 1, [1], 0.01, batch_size=2)
    with grpc.insecure_channel(run.address) as channel:
        epoch = run.engines[0].profile.epoch
        TraceServiceStub(channel).Export(export_request(ENGINE, epoch, [span]))
    dropped = 'turbospec_telemetry_dropped_total{cause="accepted_drafts"}'
    assert eventually(lambda: run.monitoring.scrapes(dropped) > 1, PATIENCE_S)


def test_a_stream_that_does_not_introduce_itself_shows_as_refused(run: Run) -> None:
    request = control_pb2.DecideRequest(step=control_pb2.StepRequest(epoch=1, step_index=1, batch_size=1))
    with grpc.insecure_channel(run.address) as channel:
        with pytest.raises(grpc.RpcError) as refusal:
            next(control_pb2_grpc.SpeculationControlServiceStub(channel).Decide(iter([request])))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    refused = 'turbospec_streams_refused_total{cause="no_profile"}'
    assert eventually(lambda: run.monitoring.scrapes(refused) > 1, PATIENCE_S)


def test_the_alert_fires_when_the_service_is_killed_and_ends_after_its_restart(run: Run) -> None:
    monitoring = run.monitoring
    seen: dict[str, float] = {}

    def comes(what: str, since_s: float, happened: bool) -> bool:
        if happened:
            seen.setdefault(what, time.monotonic() - since_s)
        return happened

    killed_s = time.monotonic()
    run.service.kill()
    assert eventually(
        lambda: comes("pending", killed_s, monitoring.alert_state(DOWN) != "inactive"), PATIENCE_S
    )
    assert eventually(lambda: comes("firing", killed_s, monitoring.alert_state(DOWN) == "firing"), PATIENCE_S)
    assert eventually(lambda: comes("received", killed_s, bool(monitoring.received(DOWN))), PATIENCE_S)
    (alert,) = monitoring.received(DOWN)
    assert alert["annotations"]["runbook_url"] == "docs/alerts/TurboSpecServiceDown.md"
    assert alert["labels"]["severity"] == "critical"
    assert "docs_base_url" not in alert["labels"]

    started_s = time.monotonic()
    run.service.start()
    seen["ready again"] = time.monotonic() - started_s
    assert eventually(
        lambda: comes("inactive", started_s, monitoring.alert_state(DOWN) == "inactive"), PATIENCE_S
    )
    assert eventually(lambda: comes("resolved", started_s, not monitoring.received(DOWN)), PATIENCE_S)
    print(
        f"\n{DOWN}, durations divided by {SPEED_UP}: " + ", ".join(f"{k} {v:.1f} s" for k, v in seen.items())
    )


def test_every_query_of_every_dashboard_returns_data(run: Run) -> None:
    # The last that comes after the restart: recorded ratios, and a decision with forecasts.
    for metric in (
        "engine_id:turbospec_payoff:ratio_rate5m",
        "engine_id:turbospec_regret:ratio_rate5m",
        "turbospec_candidate_goodput_tokens_per_second",
    ):
        wanted = f'{metric}{{engine_id="{ENGINE}"}}'
        assert eventually(lambda wanted=wanted: bool(run.monitoring.instant(wanted)), PATIENCE_S)  # type: ignore[misc]
    # What fell back before the restart was counted by the service of before: look back that far.
    answers = ask(run.monitoring.prometheus_url, ENGINE, minutes=3, rate_interval="5s")
    print("\n" + table(answers))
    assert not [answer for answer in answers if answer.error]
    assert not [answer for answer in answers if not answer.series]
