"""The files of the compose project: that they fit each other, and that what they promise is in them.

`make lint` checks compose.yaml against the compose specification, and the Dockerfiles.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.compose_file import COMPOSE_FILE, MTLS_FILE, ROOT, VARIABLE, Service, load, services

ENGINES: Final = ("sglang-cpu", "sglang-gpu")
# The collector's image holds no other program; the model is made once.
WITHOUT_HEALTH_CHECK: Final = {"collector", "model"}
# What its image writes to its own file system is not known: it cannot be run here.
WRITABLE: Final = {"sglang-gpu"}


def all_services() -> list[Service]:
    project = load()
    return [Service(name, raw) for name, raw in project["services"].items()]


by_name = pytest.mark.parametrize("service", all_services(), ids=lambda service: service.name)


@by_name
def test_a_service_has_only_the_rights_it_needs(service: Service) -> None:
    uid = service.raw["user"].partition(":")[0]
    assert uid.isdecimal()
    assert int(uid) > 0
    assert service.raw["cap_drop"] == ["ALL"]
    assert service.raw["security_opt"] == ["no-new-privileges:true"]
    assert service.raw.get("read_only", False) == (service.name not in WRITABLE)
    assert "privileged" not in service.raw


@by_name
def test_a_service_cannot_take_the_whole_host(service: Service) -> None:
    limits = service.raw["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= set(limits)
    assert service.raw["logging"]["options"]["max-size"]


@by_name
def test_an_image_is_pinned_and_a_port_is_local(service: Service) -> None:
    tag = service.raw["image"].rpartition(":")[2]
    assert re.search(r"\d+\.\d+\.\d+", tag), service.raw["image"]
    for port in service.raw.get("ports", []):
        assert port.startswith("127.0.0.1:")


@by_name
def test_a_service_says_whether_it_is_healthy(service: Service) -> None:
    assert (service.health_command is None) == (service.name in WITHOUT_HEALTH_CHECK)


@by_name
def test_what_a_service_mounts_exists(service: Service) -> None:
    volumes = load()["volumes"]
    for source in service.mounts.values():
        assert (ROOT / source).is_dir() if source.startswith("./") else source in volumes, source


def test_profiles_differ_in_the_engine_alone() -> None:
    project = load()
    always = set(services(project))
    assert set(services(project, "cpu")) == always | {"model", "sglang-cpu"}
    assert set(services(project, "gpu")) == always | {"sglang-gpu"}


def test_every_variable_is_explained_with_its_default() -> None:
    explained = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if re.match(r"\w+=", line)
    )
    used = {
        match["name"]: " ".join((match["argument"] or "").split()) if match["operator"] == ":-" else ""
        for file in (COMPOSE_FILE, MTLS_FILE)
        for match in VARIABLE.finditer(file.read_text())
    }
    # Compose's own.
    assert explained.pop("COMPOSE_PROFILES") == "cpu"
    assert explained == used


def test_engines_are_launched_at_the_longest_candidate() -> None:
    for name in ENGINES:
        engine = services(load(), name.removeprefix("sglang-"))[name]
        longest = int(engine.environment["TURBOSPEC_CANDIDATES"].split(",")[-1])
        flags = dict(zip(engine.command, engine.command[1:], strict=False))
        assert int(flags["--speculative-num-draft-tokens"]) == longest + 1
        assert flags.get("--speculative-eagle-topk", "1") == "1"


def test_more_flags_reach_sglang_as_words() -> None:
    for name in ENGINES:
        project = load(variables={"SGLANG_FLAGS": "--log-level debug --chat-template 'a b'"})
        engine = services(project, name.removeprefix("sglang-"))[name]
        assert engine.command[-4:] == ["--log-level", "debug", "--chat-template", "a b"]


def test_the_collector_closes_the_loop_through_the_services_socket() -> None:
    config = _collector()
    control = services(load())["control"].environment["TURBOSPEC_SERVICE_LISTEN"]
    exporter = config["exporters"]["otlp_grpc/control"]
    assert exporter["endpoint"] == control.replace("unix:", "unix://")
    # More than one sender would put steps out of order.
    assert exporter["sending_queue"]["num_consumers"] == 1
    assert config["service"]["pipelines"]["traces"]["exporters"] == ["otlp_grpc/control"]
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    assert set(config["service"]["extensions"]) <= set(config["extensions"])


def test_the_service_pushes_metrics_to_the_collectors_port() -> None:
    port = _collector()["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    endpoint = services(load())["control"].environment["TURBOSPEC_SERVICE_OTLP_METRICS_ENDPOINT"]
    assert endpoint == f"http://collector:{port}"


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    provisioning = ROOT / "dashboards/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["uid"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/turbospec.yaml").read_text())["providers"]
    grafana = services(load())["grafana"]
    dashboards = ROOT / grafana.mounts[provider["options"]["path"]]
    home = Path(grafana.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (dashboards / home.name).is_file()


def test_prometheus_scrapes_services_where_they_listen() -> None:
    project = load()
    config = yaml.safe_load((ROOT / "dashboards/prometheus/prometheus.yaml").read_text())
    jobs = {job["job_name"]: job["static_configs"] for job in config["scrape_configs"]}
    targets = {target for found in jobs.values() for one in found for target in one["targets"]}
    collector = _collector()["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"][
        "prometheus"
    ]
    assert targets == {
        f"control:{_port(project['services']['control'].get('ports'))}",
        f"sglang:{_port(project['services']['sglang-gpu'].get('ports'))}",
        f"alertmanager:{_port(project['services']['alertmanager'].get('ports'))}",
        f"localhost:{_port(project['services']['prometheus'].get('ports'))}",
        f"collector:{collector['port']}",
    }
    # Alerts compare this label with the name under which the engine is connected.
    (sglang,) = jobs["sglang"]
    for name in ENGINES:
        engine = project["services"][name]
        assert engine["environment"]["TURBOSPEC_ENGINE_ID"] == sglang["labels"]["engine_id"]
        assert engine["networks"]["default"]["aliases"] == ["sglang"]
        assert "--enable-metrics" in engine["command"]


def test_engines_find_a_certificate_for_each_file_they_are_told_of() -> None:
    project = load(COMPOSE_FILE, MTLS_FILE, variables={"CERTS_GID": "1000"})
    for name in ("control", *ENGINES):
        raw = project["services"][name]
        files = {value for value in raw["environment"].values() if value.startswith("/run/secrets/")}
        assert {f"/run/secrets/{secret}" for secret in raw["secrets"]} == files
        assert set(raw["secrets"]) <= set(project["secrets"])
        assert raw["group_add"] == ["1000"]


def test_nothing_but_what_an_image_needs_is_sent_to_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {"control_service", "sglang_patch", "benchmarks", "proto"}
    assert allowed == {"pyproject.toml", "README.md", "requirements", *packages}
    for dockerfile in (ROOT / "deploy").glob("*.Dockerfile"):
        for words in _instructions(dockerfile, "COPY"):
            sources = [word for word in words[:-1] if word != "."]
            if not words[0].startswith("--from"):
                assert {source.partition("/")[0] for source in sources} <= allowed


def _instructions(dockerfile: Path, name: str) -> list[list[str]]:
    lines = dockerfile.read_text().splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{name} ")]


def _port(published: list[str]) -> str:
    """The container's side of the one port that a service opens."""
    (port,) = published
    return port.rpartition(":")[2]


def _collector() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "dashboards/otel-collector/config.yaml").read_text())
    return config
