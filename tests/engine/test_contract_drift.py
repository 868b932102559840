"""A renamed SGLang attribute: the plugin refuses whole and says its name; the engine runs as it is."""

from pathlib import Path

import pytest

from tests.engine.conftest import Launch
from tests.support.scripted_service import ScriptedService

RENAMED = "_update_ngram_corpus"


@pytest.fixture
def drift(tmp_path: Path) -> str:
    """A plugin that SGLang finds before ours and that renames one method we rely on."""
    site = tmp_path / "site"
    metadata = site / "drift-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: drift\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[sglang.srt.plugins]\ndrift = drift:register\n")
    (site / "drift.py").write_text(
        "def register():\n"
        "    from sglang.srt.speculative.ngram_worker import NGRAMWorker as worker\n"
        f"    worker.{RENAMED}_renamed = worker.{RENAMED}\n"
        f"    del worker.{RENAMED}\n"
    )
    return str(site)


def test_refusal_leaves_the_engine_unpatched_and_serving(
    drift: str, launch: Launch, prompts: list[str], plain_outputs: list[list[int]], tmp_path: Path
) -> None:
    service = ScriptedService(lambda step: 3)
    address = service.start(tmp_path / "control.sock")
    server = launch("STANDALONE", {"TURBOSPEC_CONTROL_ADDRESS": address, "PYTHONPATH": drift}).wait_ready()
    try:
        assert server.generate_many(prompts, 80) == plain_outputs
    finally:
        server.stop()
        service.stop()
    log = server.log.read_text()
    assert f"NGRAMWorker.{RENAMED} is gone" in log
    assert "SGLang runs unpatched" in log
    assert not service.profiles
    assert not service.exports


def test_strict_refusal_stops_the_engine(drift: str, launch: Launch) -> None:
    server = launch(
        "STANDALONE",
        {"TURBOSPEC_CONTROL_ADDRESS": "unix:/none.sock", "TURBOSPEC_STRICT": "1", "PYTHONPATH": drift},
    )
    assert server.process.wait(120) != 0
    assert f"NGRAMWorker.{RENAMED} is gone" in server.log.read_text()
