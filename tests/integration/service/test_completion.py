"""What a shell is offered, by the script that typer installs into it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from control_service.cli import operate
from control_service.core.policies.make import policy_names
from tests.integration.service.commands import clean_environment
from tests.integration.service.synthetic_engine import Physics, cheap_drafts, connected_engine, make_profile


def offered(*words: str) -> list[str]:
    """What Tab offers for the last word, to bash."""
    environment = clean_environment(
        _TURBOSPEC_COMPLETE="complete_bash",
        COMP_WORDS=" ".join(["turbospec", *words]),
        COMP_CWORD=str(len(words)),
    )
    script = "import sys; sys.argv[0] = 'turbospec'; from control_service.cli.main import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False, capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_and_options_are_offered() -> None:
    assert {"top", "doctor", "replay", "mode"} <= set(offered(""))
    assert offered("up", "--dev") == ["--device"]


def test_modes_and_policies_are_offered() -> None:
    assert offered("mode", "e", "") == list(operate.MODE_WORDS)
    assert {word.rstrip(":") for word in offered("policy", "e", "")} == set(policy_names())


async def test_ids_of_live_engines_are_offered(unix_target: str) -> None:
    physics = Physics(0.5, cheap_drafts)
    async with (
        connected_engine(unix_target, make_profile("llama-0"), physics) as one,
        connected_engine(unix_target, make_profile("qwen-0"), physics) as two,
    ):
        await one.ask(1)
        await two.ask(1)
        where = ("--control-address", unix_target)
        assert await asyncio.to_thread(offered, "mode", *where, "") == ["llama-0", "qwen-0"]


def test_without_a_service_nothing_is_offered() -> None:
    assert offered("mode", "--control-address", "unix:/nowhere.sock", "") == []
