"""Real Prometheus and Alertmanager with our configuration, but every duration is divided by SPEED_UP."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from dashboards import local
from dashboards.queries import RULES
from tests.support.background import Background
from tests.support.engine_server import free_port

SPEED_UP: Final = 30
SCRAPE_INTERVAL: Final = "1s"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600}
_DURATION: Final = re.compile(r"(\d+)([smh])\b")


def faster(duration: str) -> str:
    """A duration of Prometheus, sped up, of at least a second."""
    match = _DURATION.fullmatch(duration)
    assert match is not None, duration
    return f"{max(int(match[1]) * _SECONDS[match[2]] // SPEED_UP, 1)}s"


def faster_rules(directory: Path) -> None:
    """The checked-in rules, with their windows and delays sped up and nothing else changed."""
    directory.mkdir()
    for path in sorted(RULES.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in content["groups"]:
            for rule in group["rules"]:
                rule["expr"] = re.sub(r"\[(\w+)\]", lambda found: f"[{faster(found[1])}]", rule["expr"])
                if "for" in rule:
                    rule["for"] = faster(rule["for"])
        (directory / path.name).write_text(yaml.safe_dump(content))


class Monitoring:
    """Both, below `directory`; they scrape the control service at `metrics_port`."""

    def __init__(self, directory: Path, metrics_port: int) -> None:
        self._directory = directory
        prometheus, alertmanager = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.prometheus_url = f"http://{prometheus}"
        self.alertmanager_url = f"http://{alertmanager}"
        faster_rules(directory / "rules")
        targets = {
            "turbospec": f"127.0.0.1:{metrics_port}",
            "prometheus": prometheus,
            "alertmanager": alertmanager,
        }
        config = local.configuration(targets, alertmanager)
        config["rule_files"] = ["rules/*.yaml"]
        config["global"] |= {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL}
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._alertmanager = Background(
            local.alertmanager_command(directory / "alertmanager", alertmanager),
            directory / "alertmanager.log",
            is_ready=lambda: _answers(f"{self.alertmanager_url}/-/ready"),
        )
        self._prometheus = Background(
            local.prometheus_command(directory / "prometheus.yaml", directory / "tsdb", prometheus),
            directory / "prometheus.log",
            is_ready=lambda: _answers(f"{self.prometheus_url}/-/ready"),
        )

    def start(self) -> None:
        self._alertmanager.start()
        self._prometheus.start()

    def stop(self) -> None:
        self._prometheus.stop()
        self._alertmanager.stop()

    def instant(self, expr: str) -> list[dict[str, Any]]:
        """Result of an instant query."""
        answer = httpx.post(f"{self.prometheus_url}/api/v1/query", data={"query": expr}, timeout=10).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def scrapes(self, series: str) -> int:
        """How many of the last scrapes found a series: rates need two."""
        return max((int(r["value"][1]) for r in self.instant(f"count_over_time({series}[10s])")), default=0)

    def alert_state(self, name: str) -> str:
        """As Prometheus sees it: inactive, pending or firing."""
        alerts = httpx.get(f"{self.prometheus_url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
        states = {alert["state"] for alert in alerts if alert["labels"]["alertname"] == name}
        return next((state for state in ("firing", "pending") if state in states), "inactive")

    def received(self, name: str) -> list[dict[str, Any]]:
        """Active alerts of that name at Alertmanager."""
        alerts = httpx.get(f"{self.alertmanager_url}/api/v2/alerts", timeout=10).json()
        return [alert for alert in alerts if alert["labels"]["alertname"] == name]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
