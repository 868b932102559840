"""Real SGLang servers on CPU, on the knob model in fp32, where greedy outputs can be compared exactly."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sglang_patch.models import knob
from sglang_patch.models.store import models_directory
from tests.support.engine_server import EngineServer

SCALE = 0.02
CANDIDATES = (0, 1, 2, 3, 5)

Launch = Callable[..., EngineServer]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def knob_model() -> Path:
    directory = models_directory() / f"knob-{SCALE:g}"
    knob.make(directory, SCALE)
    return directory


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Four prompts of different lengths; the last repeats itself, so that NGRAM has something to find."""
    code = Path(knob.__file__).read_text()
    return [code[:60], code[200:420], code[500:520], "abc abd abe " * 12]


@pytest.fixture(scope="session")
def launch(
    knob_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, dict[str, str] | None], EngineServer]]:
    """Starts a server with an algorithm ("NONE": no drafter) and ``TURBOSPEC_*`` settings."""
    started: list[EngineServer] = []
    logs = tmp_path_factory.mktemp("sglang")

    def start(algorithm: str, environment: dict[str, str] | None = None) -> EngineServer:
        flags = ["--model-path", str(knob_model / "target"), "--dtype", "float32"]
        server = EngineServer(
            flags + algorithm_flags(algorithm, knob_model), logs / f"{len(started)}.log", environment
        )
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def plain_outputs(launch: Launch, prompts: list[str]) -> list[list[int]]:
    """What SGLang says without speculation and without us."""
    server = launch("NONE").wait_ready()
    outputs = server.generate_many(prompts, 80)
    server.stop()
    return outputs


def algorithm_flags(algorithm: str, model: Path) -> list[str]:
    width = CANDIDATES[-1] + 1
    if algorithm == "NONE":
        return []
    flags = ["--speculative-algorithm", algorithm, "--speculative-num-draft-tokens", str(width)]
    if algorithm == "NGRAM":
        return [*flags, "--speculative-ngram-max-bfs-breadth", "1"]
    draft = {"EAGLE": "eagle", "STANDALONE": "draft"}[algorithm]
    return [
        *flags,
        *("--speculative-draft-model-path", str(model / draft)),
        *("--speculative-num-steps", str(width - 1)),
        *("--speculative-eagle-topk", "1"),
    ]
