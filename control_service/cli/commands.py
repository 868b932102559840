"""The command lines and environments of the programs that `turbospec up` starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_service.cli.errors import CliError, ExitCode
from control_service.cli.models import Model
from control_service.cli.options import DRAFT_ALGORITHMS, NO_SPECULATION, UpOptions

# Of a run's own settings, none may leak in from the shell.
_SET_BY_US: Final = (
    "TURBOSPEC_CONTROL_ADDRESS",
    "TURBOSPEC_ENGINE_ID",
    "TURBOSPEC_CANDIDATES",
    "TURBOSPEC_MODE",
)


@dataclass(frozen=True)
class Speculation:
    """Algorithm and drafter of a run; NONE is SGLang alone, uncontrolled."""

    algorithm: str
    draft: str | None

    @property
    def controlled(self) -> bool:
        return self.algorithm != NO_SPECULATION


def choose_speculation(options: UpOptions, model: Model) -> Speculation:
    """What the options and the model amount to. Raises `CliError` if they do not fit together."""
    needing_draft = ", ".join(DRAFT_ALGORITHMS)
    if options.algorithm is None and options.draft is not None:
        raise CliError(
            f"--draft is {options.draft!r}, so --algorithm must be given; allowed: {needing_draft}",
            ExitCode.USAGE,
        )
    algorithm = options.algorithm or model.default_algorithm
    if algorithm not in DRAFT_ALGORITHMS:
        if options.draft is not None:
            raise CliError(
                f"--draft is {options.draft!r}, but {algorithm} takes none; "
                f"--algorithm with a draft: {needing_draft}",
                ExitCode.USAGE,
            )
        return Speculation(algorithm, None)
    draft = options.draft or model.drafts.get(algorithm)
    if draft is None:
        raise CliError(
            f"--algorithm is {algorithm!r}, which needs --draft: a directory or a model's name",
            ExitCode.USAGE,
        )
    return Speculation(algorithm, draft)


def sglang_command(options: UpOptions, model: Model, speculation: Speculation) -> list[str]:
    """SGLang's command line. The user's flags come last, where argparse lets them win."""
    return [
        *(sys.executable, "-m", "sglang_patch.launch"),
        *("--device", options.device, "--host", options.host, "--port", str(options.port)),
        *("--model-path", model.path),
        *model.flags,
        *_speculation_flags(speculation, options.candidates[-1]),
        *options.sglang_flags,
    ]


def _speculation_flags(speculation: Speculation, longest: int) -> list[str]:
    """Launched at the longest candidate: SGLang sizes its buffers by what it is launched with."""
    if not speculation.controlled:
        return []
    common = ["--speculative-algorithm", speculation.algorithm]
    width = ["--speculative-num-draft-tokens", str(longest + 1)]
    if speculation.draft is None:
        # A chain, like the others draft: every prefix of it is a shorter draft.
        breadth = ["--speculative-ngram-min-bfs-breadth", "1", "--speculative-ngram-max-bfs-breadth", "1"]
        return [*common, *width, *breadth]
    draft = ["--speculative-draft-model-path", speculation.draft]
    return [*common, *draft, "--speculative-num-steps", str(longest), "--speculative-eagle-topk", "1", *width]


def sglang_environment(
    options: UpOptions, speculation: Speculation, base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """SGLang's environment: under control, or untouched by the plugin where nothing is to be controlled."""
    environment = {name: value for name, value in base.items() if name not in _SET_BY_US}
    # SGLang compiles with ninja, which may be installed nowhere but beside this Python.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    if speculation.controlled:
        environment |= {
            "TURBOSPEC_CONTROL_ADDRESS": options.control_address,
            "TURBOSPEC_ENGINE_ID": f"{options.host}:{options.port}",
            "TURBOSPEC_CANDIDATES": ",".join(map(str, options.candidates)),
        }
    return environment


def service_command(options: UpOptions) -> list[str]:
    """The control service's command line."""
    return [
        *(sys.executable, "-m", "control_service"),
        *("--listen", options.control_address),
        *("--metrics-listen", f"127.0.0.1:{options.metrics_port}"),
        *("--mode", options.mode),
    ]
