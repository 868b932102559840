"""The control service's image, built and run."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.images.podman import Containers, podman
from tests.support.compose_file import Service
from tests.support.compose_native import Differences
from tests.support.wait import eventually

pytestmark = pytest.mark.images


@pytest.fixture(scope="module")
def control(control_image: str, project: dict[str, Service], containers: Containers) -> Service:
    """Running, and healthy by its own health check."""
    service = project["control"]
    containers.start(service)
    assert eventually(lambda: containers.is_healthy(service), timeout_s=60), containers.log("control")
    return service


def test_the_image_runs_as_nobody_in_particular(control_image: str) -> None:
    inspected = json.loads(podman("image", "inspect", control_image).stdout)[0]
    assert inspected["Config"]["User"] == "10001:10001"


def test_it_has_no_right_to_its_own_files(control: Service, containers: Containers) -> None:
    assert containers.run_in("control", ["id", "-u"]).stdout.strip() == "10001"
    for place in ("/opt/turbospec/x", "/etc/x", "/x"):
        assert containers.run_in("control", ["touch", place]).returncode != 0, place


def test_the_command_line_finds_the_service(control: Service, containers: Containers) -> None:
    """Without being told where: the socket is where it looks."""
    done = containers.run_in("control", ["turbospec", "status", "--json"])
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout).get("engines", []) == []


def test_metrics_are_served(control: Service, containers: Containers, differences: Differences) -> None:
    answer = httpx.get(differences.with_addresses("http://127.0.0.1:9464/metrics"))
    assert answer.status_code == 200
    assert "turbospec_build_info" in answer.text


def test_where_packages_came_from_is_not_in_the_image(
    control: Service, control_image: str, containers: Containers
) -> None:
    history = podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", control_image).stdout
    assert "index-url" not in history
    assert "pip.conf" not in containers.run_in("control", ["ls", "/etc"]).stdout.split()


def test_it_stops_by_itself_when_asked(control: Service, containers: Containers) -> None:
    """Last: it is gone afterwards."""
    assert containers.stop("control", grace_s=15) == 0, containers.log("control")
    assert not containers.is_healthy(control)
