"""SGLang's images. The one for a CPU is built and serves under control. The one for a GPU is only built, on
top of the other: the released SGLang image cannot be had without a registry, nor run without a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.images.podman import Containers, build, podman
from tests.support.compose_file import STATUS, Service, load, services
from tests.support.compose_native import Differences
from tests.support.wait import eventually

pytestmark = pytest.mark.images

# Kernels and the NGRAM drafter are compiled at the first start.
HEALTHY_WITHIN_S = 600


@pytest.fixture(scope="module")
def engine(
    control_image: str, engine_image: str, project: dict[str, Service], containers: Containers
) -> Service:
    """SGLang in a container, the service in another, a volume with the socket between."""
    containers.start(project["control"])
    assert eventually(lambda: containers.is_healthy(project["control"]), timeout_s=60), containers.log(
        "control"
    )
    containers.start(project["model"], wait=True)
    service = project["sglang-cpu"]
    containers.start(service)
    assert eventually(lambda: containers.is_healthy(service), timeout_s=HEALTHY_WITHIN_S), containers.log(
        service.name
    )
    return service


def test_it_serves_under_control(engine: Service, containers: Containers, differences: Differences) -> None:
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Name three colours."}],
        "max_tokens": 32,
        "ignore_eos": True,
    }
    url = differences.with_addresses("http://127.0.0.1:30000/v1/chat/completions")
    answer = httpx.post(url, json=body, timeout=300)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 32

    def leased_steps() -> int:
        status = containers.run_in("control", STATUS)
        (seen,) = json.loads(status.stdout)["engines"]
        return int(seen["steps_by_source"].get("lease", 0)) if seen["connected"] else 0

    assert eventually(lambda: leased_steps() > 0)


def test_it_has_no_right_to_its_own_files(engine: Service, containers: Containers) -> None:
    assert containers.run_in(engine.name, ["id", "-u"]).stdout.strip() == "10001"
    assert containers.run_in(engine.name, ["touch", "/opt/turbospec/x"]).returncode != 0


def test_the_gpu_image_adds_the_plugin_to_whatever_sglang_it_is_built_on(
    engine_image: str, scratch: Path
) -> None:
    service = services(load(), "gpu")["sglang-gpu"]
    image = build(service, scratch, {"SGLANG_IMAGE": engine_image})
    inspected = json.loads(podman("image", "inspect", image).stdout)[0]
    assert inspected["Config"]["User"] == "10001:10001"
