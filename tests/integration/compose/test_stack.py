"""What `docker compose --profile cpu up` starts, started here without containers.

Commands, environments, health checks, start order and configuration files are those of compose.yaml and
dashboards/. What is different is in `differences` below, and nowhere else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.compose_file import STATUS, load, services
from tests.support.compose_native import Differences, NativeStack
from tests.support.engine_server import free_port
from tests.support.wait import eventually

pytestmark = pytest.mark.engine

# No package that could be installed here holds them: their configuration is checked in test_files.py.
NOT_HERE: Final = {"collector", "grafana"}
PORTS: Final = (9464, 30000, 9090, 9093)


def differences() -> Differences:
    """Hosts and ports, where the cache lies, and what Debian calls the programs."""
    cache = Path(os.environ.get("TURBOSPEC_CACHE_DIR") or "~/.cache/turbospec").expanduser()
    return Differences(
        ports={port: free_port() for port in PORTS},
        hosts=("control", "sglang", "prometheus", "alertmanager", "collector", "localhost"),
        paths={"/var/cache/turbospec/home": Path.home(), "/var/cache/turbospec": cache},
        programs={
            "python3": sys.executable,
            "turbospec": str(Path(sys.executable).with_name("turbospec")),
            "alertmanager": "prometheus-alertmanager",
        },
        entrypoints={"prometheus": "prometheus", "alertmanager": "alertmanager"},
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    chosen = services(load(), "cpu")
    for name in NOT_HERE:
        del chosen[name]
    assert set(chosen) == {"control", "model", "sglang-cpu", "prometheus", "alertmanager"}
    running = NativeStack(chosen, differences(), tmp_path_factory.mktemp("compose"))
    try:
        running.up()
        yield running
    finally:
        running.down()


def test_a_chat_completion_is_under_control(stack: NativeStack) -> None:
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Name three colours."}],
        "max_tokens": 32,
        "ignore_eos": True,
    }
    answer = httpx.post(stack.here("http://127.0.0.1:30000/v1/chat/completions"), json=body, timeout=120)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 32

    def leased_steps() -> int:
        status = stack.run("control", STATUS)
        assert status.returncode == 0, status.stderr
        (engine,) = json.loads(status.stdout)["engines"]
        assert engine["profile"]["engine_id"] == "sglang"
        assert engine["connected"]
        return int(engine["steps_by_source"].get("lease", 0))

    assert eventually(lambda: leased_steps() > 0)


def test_prometheus_scrapes_the_service_and_the_engine(stack: NativeStack) -> None:
    def up() -> set[str]:
        targets = _prometheus(stack, "targets")["activeTargets"]
        return {target["scrapeUrl"] for target in targets if target["health"] == "up"}

    wanted = {stack.here(f"http://{address}/metrics") for address in ("control:9464", "sglang:30000")}
    assert eventually(lambda: wanted <= up(), timeout_s=60), _prometheus(stack, "targets")


def test_what_was_scraped_is_there_to_query(stack: NativeStack) -> None:
    connected = 'turbospec_engine_connected{engine_id="sglang"} == 1'
    assert eventually(lambda: bool(_prometheus(stack, "query", connected)["result"]), timeout_s=60)
    # SGLang names its series sglang: or, to a scraper that asks for OpenMetrics, sglang_.
    of_sglang = '{job="sglang", __name__=~"sglang.+"}'
    assert eventually(lambda: bool(_prometheus(stack, "query", of_sglang)["result"]), timeout_s=60)


def test_alerts_find_alertmanager(stack: NativeStack) -> None:
    wanted = stack.here("http://alertmanager:9093/api/v2/alerts")

    def found() -> list[str]:
        return [entry["url"] for entry in _prometheus(stack, "alertmanagers")["activeAlertmanagers"]]

    assert eventually(lambda: found() == [wanted], timeout_s=60), found()


def test_health_checks_notice_what_has_stopped(stack: NativeStack) -> None:
    """Last: nothing runs afterwards."""
    for name in ("sglang-cpu", "prometheus", "alertmanager", "control"):
        assert stack.is_healthy(name), name
        stack.stop(name)
        assert not stack.is_healthy(name), name


def _prometheus(stack: NativeStack, what: str, query: str = "") -> Any:
    answer = httpx.get(
        stack.here(f"http://127.0.0.1:9090/api/v1/{what}"), params={"query": query} if query else None
    )
    answer.raise_for_status()
    return answer.json()["data"]
