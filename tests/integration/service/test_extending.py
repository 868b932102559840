"""docs/extending.md: its policy is run as it stands there, online against a service, and in replay."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from typer.testing import CliRunner

from benchmarks.traces import generate
from control_service.cli.errors import ExitCode
from control_service.cli.main import app
from control_service.core.policies import make
from tests.integration.service.synthetic_engine import Physics, cheap_drafts, connected_engine, make_profile
from turbospec.v1 import admin_pb2, admin_pb2_grpc

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"
TRACES = Path(generate.__file__).parent
MODULE = "control_service.core.policies.aimd"
STEPS = 200


@pytest.fixture
def aimd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's two pieces of code, where it says that they go."""
    policy, factory = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(compile(policy, f"{PAGE}: policy", "exec"), vars(module))
    names = {**vars(make), "AimdPolicy": vars(module)["AimdPolicy"]}
    exec(compile(factory, f"{PAGE}: factory", "exec"), names)
    monkeypatch.setitem(make._FACTORIES, "aimd", names["_aimd"])


@pytest.mark.parametrize(("acceptance", "settles_at"), [(0.99, 5), (0.05, 1)])
async def test_it_steers_an_engine(acceptance: float, settles_at: int, aimd: None, unix_target: str) -> None:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        admin = admin_pb2_grpc.SpeculationAdminServiceStub(channel)
        async with connected_engine(unix_target, make_profile(), Physics(acceptance, cheap_drafts)) as engine:
            await engine.ask(4)
            await admin.SetPolicy(admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="aimd"))
            await engine.run(STEPS, batch_size=4)
            await engine.flush()
            decision = await admin.ExplainDecision(admin_pb2.ExplainDecisionRequest(engine_id="engine-a"))
    assert decision.reason == "aimd"
    late = engine.lengths[STEPS // 2 :]
    assert late.count(settles_at) > 0.7 * len(late), engine.lengths


async def test_what_it_does_not_know_is_refused_by_name(aimd: None, unix_target: str) -> None:
    async with (
        grpc.aio.insecure_channel(unix_target) as channel,
        connected_engine(unix_target, make_profile(), Physics(0.5, cheap_drafts)) as engine,
    ):
        await engine.ask(1)
        admin = admin_pb2_grpc.SpeculationAdminServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="parameters: "):
            await admin.SetPolicy(
                admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="aimd", parameters={"a": "b"})
            )


def test_it_can_be_judged_in_replay(aimd: None) -> None:
    words = (
        *("replay", "--step-time", str(TRACES / "h100-llama-3.1-8b.json")),
        *("--trace", str(TRACES / "chat.jsonl"), "--drafter", "eagle3", "--concurrency", "4"),
        *("--policy", "aimd", "--policy", "goodput", "--seconds", "5", "--seeds", "1", "--workers", "1"),
    )
    done = CliRunner().invoke(app, [*words, "--json", "-"])
    assert done.exit_code == ExitCode.DONE, done.output
    found = {row["policy"]: row for row in json.loads(done.stdout)}
    assert 0 < found["aimd"]["tokens_per_s"] < 1.1 * found["goodput"]["tokens_per_s"]
