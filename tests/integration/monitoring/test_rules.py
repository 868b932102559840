"""Rules and configuration as Prometheus' and Alertmanager's own tools judge them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_service.server.metrics.collector import ENGINE_MEASURES
from control_service.server.metrics.service_measures import SERVICE_MEASURES
from dashboards.queries import HERE, RULES, metrics_in, rules

ROOT = HERE.parent
TESTS = HERE / "prometheus" / "tests" / "alerts.test.yaml"


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    files = [str(path) for path in sorted(RULES.glob("*.yaml"))]
    print(run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *files))


def test_promtool_takes_prometheus_configuration_with_all_its_rules() -> None:
    said = run("promtool", "check", "config", str(HERE / "prometheus" / "prometheus.yaml"))
    print(said)
    for path in RULES.glob("*.yaml"):
        assert path.name in said


def test_every_alert_fires_for_what_it_is_for_and_not_otherwise() -> None:
    print(run("promtool", "test", "rules", TESTS.name, cwd=TESTS.parent))


def test_amtool_takes_alertmanagers_configuration() -> None:
    print(run("amtool", "check-config", str(HERE / "alertmanager" / "alertmanager.yaml")))


@cache
def cases() -> list[dict[str, Any]]:
    """What promtool is asked of each alert."""
    groups = yaml.safe_load(TESTS.read_text())["tests"]
    return [case for group in groups for case in group["alert_rule_test"]]


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in rules() if "alert" in rule}))
def test_every_alert_has_a_page_a_firing_test_and_a_silent_one(alert: str) -> None:
    assert (ROOT / "docs" / "alerts" / f"{alert}.md").read_text().startswith(f"# {alert}\n")
    expected = [case["exp_alerts"] for case in cases() if case["alertname"] == alert]
    assert any(expected)
    assert not all(expected)


def test_every_alert_names_its_page() -> None:
    for rule in rules():
        if "alert" in rule:
            page = f"{{{{ $externalLabels.docs_base_url }}}}docs/alerts/{rule['alert']}.md"
            assert rule["annotations"]["runbook_url"] == page


def test_every_page_belongs_to_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "alerts").glob("*.md")}
    assert pages == {rule["alert"] for rule in rules() if "alert" in rule}


def test_every_metric_that_a_rule_names_exists() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    exposed = exposed_names()
    for rule in rules():
        unknown = metrics_in(rule["expr"]) - recorded - exposed
        assert not unknown, rule


def exposed_names() -> set[str]:
    """Names of all series, histograms' included."""
    names = set()
    for measure in (*ENGINE_MEASURES, *SERVICE_MEASURES):
        parts = ("_bucket", "_sum", "_count") if measure.kind == "histogram" else ("",)
        names |= {measure.exposed_name + part for part in parts}
    return names
