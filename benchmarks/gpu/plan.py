"""What will be run on the GPU: every server with its command and environment, before anything starts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gpu.acceptance import SIMULATION, VARIABLE
from benchmarks.models import Model
from benchmarks.servers import Setup, server_environment
from benchmarks.variants import Variant, VariantKind, variants_for

STAGES: Final = ("grid", "crediting", "kill", "closed-loop")
ALGORITHM: Final = "EAGLE"
LAUNCHER: Final = "benchmarks.gpu.launch"
FIXED_LENGTHS: Final = (1, 2, 3, 5, 7)
CLIENTS: Final = (1, 8, 32, 64, 128)
# Chance that a draft is accepted if the one before it was.
ACCEPTANCE: Final = {"low": "0.4", "middle": "0.65", "high": "0.85", "moving": "0.4:15,0.85:15"}
# Of the stages with one server: answers that take many steps, every draft, and something in between.
STAGE_ACCEPTANCE: Final = {"grid": "0.4", "crediting": "1", "kill": "0.65"}
CONTEXTS: Final = (512, 2_048, 6_144)
# Graphs of every length and batch size are captured before a server answers.
START_TIMEOUT_S: Final = 1_200.0
# The Triton backend needs the fewest compiled kernels. Random weights have no tokenizer, and mean nothing
# that a prefix cache should keep.
GPU_FLAGS: Final = (
    *("--attention-backend", "triton"),
    *("--sampling-backend", "pytorch"),
    *("--load-format", "dummy"),
    *("--mem-fraction-static", "0.85"),
    *("--context-length", "8192"),
    *("--max-running-requests", "128"),
    *("--cuda-graph-max-bs-decode", "128"),
    *("--random-seed", "1"),
    "--skip-tokenizer-init",
    "--skip-server-warmup",
    "--disable-radix-cache",
    "--incremental-streaming-output",
)


@dataclass(frozen=True, slots=True)
class ServerLaunch:
    """One server of the plan."""

    purpose: str
    variant: Variant
    setup: Setup

    def shell(self) -> str:
        """As one could type it; the port and the control address are chosen at the start."""
        environment = server_environment(self.setup, self.variant, "CONTROL_ADDRESS", "ENGINE_ID")
        ours = {
            name: value for name, value in environment.items() if name.startswith(("TURBOSPEC_", "SGLANG_"))
        }
        variables = [f"{name}={shlex.quote(value)}" for name, value in sorted(ours.items())]
        return " ".join([*variables, shlex.join(self.setup.argv(self.variant, 30000))])


def gpu_setup(
    model: Model, directory: Path, acceptance: str, *, device: str, flags: Sequence[str] = GPU_FLAGS
) -> Setup:
    """What all servers of one acceptance have in common."""
    return Setup(
        model=model,
        algorithm=ALGORITHM,
        lengths=FIXED_LENGTHS,
        device=device,
        directory=directory,
        launcher=LAUNCHER,
        common_flags=tuple(flags),
        environment={**SIMULATION, VARIABLE: acceptance},
        start_timeout_s=START_TIMEOUT_S,
    )


def closed_loop_variants() -> list[Variant]:
    """No speculation without a drafter, each fixed length, SGLang's adaptive, ours."""
    return variants_for(ALGORITHM, FIXED_LENGTHS)


def launches(
    model: Model, directory: Path, *, device: str, stages: Sequence[str], flags: Sequence[str]
) -> list[ServerLaunch]:
    """Every server of the plan, in order."""
    ours = Variant(VariantKind.TURBOSPEC)

    def setup(name: str, acceptance: str) -> Setup:
        return gpu_setup(model, directory / name, acceptance, device=device, flags=flags)

    found: list[ServerLaunch] = []
    if "grid" in stages:
        found.append(
            ServerLaunch("grid: step times of every length", ours, setup("grid", STAGE_ACCEPTANCE["grid"]))
        )
    if "crediting" in stages:
        found.append(
            ServerLaunch(
                "crediting: records against steps", ours, setup("crediting", STAGE_ACCEPTANCE["crediting"])
            )
        )
    if "kill" in stages:
        found.append(
            ServerLaunch(
                "kill: the service dies in the middle", ours, setup("kill", STAGE_ACCEPTANCE["kill"])
            )
        )
    if "closed-loop" in stages:
        for level, acceptance in ACCEPTANCE.items():
            shared = setup(f"closed-loop-{level}", acceptance)
            found += [
                ServerLaunch(f"closed loop, acceptance {level}: {variant.label}", variant, shared)
                for variant in closed_loop_variants()
            ]
    return found
