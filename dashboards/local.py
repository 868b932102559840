"""Prometheus and Alertmanager beside a service on this host: `python -m dashboards.local`, or `make monitor`.

They run with the checked-in rules and configurations; only the addresses are those of this host. Both
programs are Debian packages, `prometheus` and `prometheus-alertmanager`. With Grafana: compose.yaml.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from control_service.cli.errors import CliError, ExitCode
from control_service.cli.processes import Child
from control_service.cli.supervise import Member, StopRequest, Supervisor
from dashboards.queries import HERE, RULES

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 30.0
STOP_GRACE_S: Final = 10.0
ALERTMANAGER: Final = HERE / "alertmanager" / "alertmanager.yaml"


def configuration(targets: Mapping[str, str], alertmanager: str, engine_id: str = "") -> dict[str, Any]:
    """The checked-in configuration of Prometheus with the addresses of one host.

    Args:
        targets: `host:port` by job; jobs that are not named are left out.
        alertmanager: `host:port`.
        engine_id: of the engine that the job `sglang` scrapes, as the control service knows it.
    """
    text = (HERE / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)
    config["rule_files"] = [str(RULES / "*.yaml")]
    (managers,) = config["alerting"]["alertmanagers"]
    managers["static_configs"] = [{"targets": [alertmanager]}]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    for job in config["scrape_configs"]:
        (static,) = job["static_configs"]
        static["targets"] = [targets[job["job_name"]]]
        if "engine_id" in static.get("labels", {}):
            static["labels"]["engine_id"] = engine_id
    return config


def prometheus_command(config: Path, data: Path, address: str) -> list[str]:
    """How Prometheus is started; it listens on `address` alone."""
    return [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]


def alertmanager_command(data: Path, address: str) -> list[str]:
    """How Alertmanager is started; it listens on `address` alone."""
    return [
        "prometheus-alertmanager",
        f"--config.file={ALERTMANAGER}",
        f"--storage.path={data}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]


def run(directory: Path, *, service: str, engine: str, prometheus: str, alertmanager: str) -> None:
    """Run both until asked to stop; their data and logs are kept below `directory`.

    Args:
        service: `host:port` of the control service's metrics.
        engine: `host:port` of SGLang, which is its id too unless it was given another; empty: left out.

    Raises:
        CliError: one of them is not installed, does not start, or ends.
    """
    targets = {"turbospec": service, "prometheus": prometheus, "alertmanager": alertmanager}
    if engine:
        targets["sglang"] = engine
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "prometheus.yaml"
    path.write_text(yaml.safe_dump(configuration(targets, alertmanager, engine)), encoding="utf-8")
    members = [
        _member("Alertmanager", alertmanager_command(directory / "alertmanager", alertmanager), alertmanager),
        _member("Prometheus", prometheus_command(path, directory / "tsdb", prometheus), prometheus),
    ]
    with StopRequest() as stop_request:
        supervisor = Supervisor(members, stop_request, print)
        try:
            supervisor.start()
            if supervisor.wait_healthy(START_TIMEOUT_S, _nothing):
                print(f"Prometheus    http://{prometheus}/alerts")
                print(f"Alertmanager  http://{alertmanager}/")
                print("Ctrl-C stops both.", flush=True)
                supervisor.supervise(_nothing)
        finally:
            supervisor.stop()


def _member(name: str, command: Sequence[str], address: str) -> Member:
    if shutil.which(command[0]) is None:
        raise CliError(f"{command[0]} is not installed; it is Debian's package of that name", ExitCode.USAGE)
    log = Path(command[2].partition("=")[2]).with_suffix(".log")
    child = Child(name, list(command), os.environ, log)
    return Member(child, lambda: _answers(f"http://{address}/-/ready"), True, STOP_GRACE_S)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _nothing() -> None:
    """There is nothing to show while they run."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Prometheus and Alertmanager beside a service on this host.")
    for name, default, purpose in (
        ("--service", f"{HOST}:9464", "metrics of the control service"),
        ("--engine", "", "SGLang too, if it runs with --enable-metrics"),
        ("--prometheus", f"{HOST}:9090", "where Prometheus is to listen"),
        ("--alertmanager", f"{HOST}:9093", "where Alertmanager is to listen"),
    ):
        parser.add_argument(
            name, default=default, metavar="HOST:PORT", help=f"{purpose} ({default or 'none'})"
        )
    parser.add_argument("--directory", type=Path, default=Path(".run/monitoring"), help="of data and logs")
    given = parser.parse_args()
    try:
        run(
            given.directory.absolute(),
            service=given.service,
            engine=given.engine,
            prometheus=given.prometheus,
            alertmanager=given.alertmanager,
        )
    except CliError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
