"""compose.yaml as compose reads it: files merged, variables put in, one profile chosen."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPOSE_FILE: Final = ROOT / "compose.yaml"
MTLS_FILE: Final = ROOT / "compose.mtls.yaml"
# Run in the service's container, or as if there.
STATUS: Final = ("turbospec", "status", "--json", "--control-address", "unix:/run/turbospec/control.sock")
VARIABLE: Final = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<operator>:-|:\?)(?P<argument>[^}]*))?\})"
)


@dataclass(frozen=True)
class Service:
    """One service of a project; `raw` is everything that the file says of it."""

    name: str
    raw: Mapping[str, Any]

    @property
    def command(self) -> list[str]:
        """Words; a command that is one text is split as a shell would."""
        command = self.raw["command"]
        return shlex.split(command) if isinstance(command, str) else list(command)

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.raw.get("environment", {}))

    @property
    def mounts(self) -> dict[str, str]:
        """Path in the container -> volume's name, or path of the repository (./...)."""
        parts = [volume.split(":") for volume in self.raw.get("volumes", [])]
        return {target: source for source, target, *_ in parts}

    @property
    def health_command(self) -> list[str] | None:
        """None for a service without a health check."""
        check = self.raw.get("healthcheck")
        if check is None:
            return None
        kind, *words = check["test"]
        assert kind == "CMD", f"{self.name}: {check['test']}"
        return words

    @property
    def depends_on(self) -> dict[str, str]:
        """Name -> condition."""
        return {name: how["condition"] for name, how in self.raw.get("depends_on", {}).items()}


def load(*files: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The files merged, the later over the earlier, with `variables` or their defaults put in."""
    read = [yaml.safe_load(file.read_text()) for file in files or (COMPOSE_FILE,)]
    merged: dict[str, Any] = _interpolated(reduce(_merged, read), variables or {})
    return merged


def services(project: Mapping[str, Any], profile: str = "") -> dict[str, Service]:
    """What `docker compose --profile PROFILE up` starts."""
    return {
        name: Service(name, raw)
        for name, raw in project["services"].items()
        if not raw.get("profiles") or profile in raw["profiles"]
    }


def start_order(chosen: Mapping[str, Service]) -> list[Service]:
    """Every service after those that it depends on."""
    ordered: list[Service] = []

    def visit(service: Service, path: Sequence[str]) -> None:
        assert service.name not in path, f"services wait for each other: {path}"
        for name in service.depends_on:
            visit(chosen[name], [*path, service.name])
        if service not in ordered:
            ordered.append(service)

    for service in chosen.values():
        visit(service, [])
    return ordered


def _merged(below: Any, above: Any) -> Any:
    """As compose merges files: maps key by key, lists one after the other, anything else replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            **below,
            **{key: _merged(below[key], value) if key in below else value for key, value in above.items()},
        }
    if isinstance(below, list) and isinstance(above, list):
        return below + above
    return above


def _interpolated(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _interpolated(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [_interpolated(value, variables) for value in node]
    if not isinstance(node, str):
        return node

    def value_of(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        value = variables.get(match["name"], "")
        if not value and match["operator"] == ":?":
            raise KeyError(f"{match['name']}: {match['argument']}")
        return value or match["argument"] or ""

    return VARIABLE.sub(value_of, node)
