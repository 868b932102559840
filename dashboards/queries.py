"""Every query of every dashboard and rule, and the metrics they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

HERE: Final = Path(__file__).resolve().parent
RULES: Final = HERE / "prometheus" / "rules"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class PanelQuery(NamedTuple):
    """One expression as a panel asks it; with `instant` as of now, else over time."""

    dashboard: str
    panel: str
    expr: str
    instant: bool

    def with_variables(self, values: Mapping[str, str]) -> str:
        """The expression as Grafana would send it."""
        text = self.expr
        for name, value in values.items():
            text = text.replace(f"${name}", value)
        return text


def dashboard_queries() -> Iterator[PanelQuery]:
    """In the order of the checked-in files."""
    for path in sorted((HERE / "grafana").glob("*.json")):
        yield from _queries_of(path.stem, json.loads(path.read_text(encoding="utf-8"))["panels"])


def _queries_of(dashboard: str, panels: list[dict[str, Any]]) -> Iterator[PanelQuery]:
    for panel in panels:
        yield from _queries_of(dashboard, panel.get("panels") or [])
        for target in panel.get("targets") or []:
            yield PanelQuery(dashboard, panel["title"], target["expr"], bool(target.get("instant")))


def rules() -> list[dict[str, Any]]:
    """All rules of all files: those with the key `record`, and those with `alert`."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def metrics_in(expr: str) -> set[str]:
    """Names of ours in an expression: exposed ones, and recorded ones (with colons)."""
    return {name for name in _NAME.findall(expr) if name.startswith("turbospec_") or ":turbospec_" in name}
