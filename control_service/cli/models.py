"""What `--model` means: a model that TurboSpec can make itself, a directory, or a name that SGLang knows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from control_service.cli import tether
from control_service.cli.errors import CliError, ExitCode, usage_error

DEFAULT_MODEL: Final = "smollm2"
KNOB_SCALE: Final = "0.02"

# Sizes for a small machine: SGLang would otherwise take most of its memory for the KV cache.
_SMOLLM2_FLAGS: Final = (
    *("--served-model-name", "smollm2-135m-instruct"),
    *("--context-length", "4096", "--max-total-tokens", "24576", "--max-running-requests", "16"),
)
_KNOB_FLAGS: Final = (
    *("--served-model-name", "knob", "--dtype", "float32"),
    *("--context-length", "2048", "--max-total-tokens", "20000", "--max-running-requests", "16"),
)

Maker = Callable[[Sequence[str]], Path]


@dataclass(frozen=True)
class Model:
    """A model to serve."""

    path: str
    # What requests call it, unless SGLang's flags say otherwise.
    served_name: str
    default_algorithm: str
    # Drafters that come with it, by algorithm.
    drafts: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def resolve_model(name: str, make: Maker) -> Model:
    """The model called `name`: smollm2, knob, knob:SCALE, a directory, or a name for SGLang to look up.

    `make` is called with the arguments of a model maker and returns the model's directory. Raises `CliError`.
    """
    kind, _, scale = name.partition(":")
    if name == "smollm2":
        path = str(make(["sglang_patch.models.smollm2"]))
        return Model(path, "smollm2-135m-instruct", "NGRAM", flags=_SMOLLM2_FLAGS)
    if kind == "knob":
        root = make(["sglang_patch.models.knob", "--scale", _checked_scale(name, scale)])
        drafts = {"STANDALONE": str(root / "draft"), "EAGLE": str(root / "eagle")}
        return Model(str(root / "target"), "knob", "STANDALONE", drafts, _KNOB_FLAGS)
    if name.startswith(("/", ".", "~")):
        directory = Path(name).expanduser()
        if not directory.is_dir():
            raise usage_error(
                "--model", name, "smollm2, knob[:SCALE], an existing directory, or a model's name"
            )
        name = str(directory.absolute())
    return Model(name, name, "NGRAM")


def run_maker(arguments: Sequence[str]) -> Path:
    """Run a model maker, its progress on our stderr. Raises `CliError` if it fails; it has said why."""
    # Tethered: a long conversion does not go on alone if we are stopped meanwhile.
    tethered = [sys.executable, "-I", tether.__file__, str(os.getpid()), sys.executable, "-m", *arguments]
    made = subprocess.run(tethered, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if made.returncode != 0:
        raise CliError(f"the model could not be made ({' '.join(arguments)})", ExitCode.CHILD_FAILED)
    return Path(made.stdout.splitlines()[-1])


def _checked_scale(name: str, scale: str) -> str:
    if ":" not in name:
        return KNOB_SCALE
    try:
        usable = 0 <= float(scale) <= 1
    except ValueError:
        usable = False
    if not usable:
        raise usage_error("--model", name, "knob:SCALE with a SCALE from 0 to 1")
    return scale
