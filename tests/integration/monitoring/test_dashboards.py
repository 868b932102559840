"""The checked-in dashboards: made from the code, known to Grafana's schema, of metrics that exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.generate import GRAFANA, texts
from dashboards.queries import dashboard_queries, metrics_in, rules
from tests.integration.monitoring.test_rules import exposed_names

FILES = sorted(GRAFANA.glob("*.json"))


def test_they_are_what_the_code_makes() -> None:
    made = texts()
    assert sorted(made) == FILES
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name} is out of date: python -m dashboards.generate"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafanas_schema_knows_every_field(path: Path) -> None:
    register_default_plugins()
    text = path.read_text()
    understood = Dashboard.from_json(json.loads(text))
    assert JSONEncoder(sort_keys=True, indent=2).encode(understood) + "\n" == text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows_and_none_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith((".", ".)"))


def test_every_metric_that_a_query_names_exists() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    exposed = exposed_names()
    queries = list(dashboard_queries())
    assert len(queries) > 40
    for query in queries:
        unknown = metrics_in(query.expr) - recorded - exposed
        assert not unknown, query
