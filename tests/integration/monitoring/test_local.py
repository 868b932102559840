"""`make monitor`: both programs, from the command that a user types."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dashboards import local
from tests.support.engine_server import free_port
from tests.support.wait import eventually


def test_both_run_with_our_rules_until_asked_to_stop(tmp_path: Path) -> None:
    prometheus, alertmanager = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = [
        *(sys.executable, "-m", "dashboards.local", "--directory", str(tmp_path)),
        *("--prometheus", prometheus, "--alertmanager", alertmanager),
        *("--service", "127.0.0.1:1", "--engine", "127.0.0.1:2"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert f"http://{prometheus}/alerts" in said[0]
        assert f"http://{alertmanager}/" in said[1]

        rules = httpx.get(f"http://{prometheus}/api/v1/rules").json()["data"]["groups"]
        assert "TurboSpecServiceDown" in {rule["name"] for group in rules for rule in group["rules"]}

        def scraped() -> set[str]:
            targets = httpx.get(f"http://{prometheus}/api/v1/targets").json()["data"]["activeTargets"]
            return {target["scrapeUrl"] for target in targets if target["lastError"]}

        assert eventually(lambda: scraped() == {f"http://127.0.0.1:{port}/metrics" for port in (1, 2)})
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{prometheus}/-/ready")


def test_an_engine_is_scraped_under_its_own_name() -> None:
    config = local.configuration({"turbospec": "a:1", "sglang": "b:2"}, "c:3", engine_id="b:2")
    assert [job["static_configs"] for job in config["scrape_configs"]] == [
        [{"targets": ["a:1"]}],
        [{"targets": ["b:2"], "labels": {"engine_id": "b:2"}}],
    ]
