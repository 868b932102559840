"""The models that are benchmarked, made on first use and cached."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workload import LoadKind


@dataclass(frozen=True, slots=True)
class Model:
    """A target with the drafts that exist for it."""

    name: str
    target: Path
    dtype: str
    default_loads: tuple[LoadKind, ...]
    drafts: dict[str, Path] = field(default_factory=dict)

    @property
    def vocabulary_size(self) -> int:
        return int(json.loads((self.target / "config.json").read_text(encoding="utf-8"))["vocab_size"])

    @property
    def default_algorithms(self) -> tuple[str, ...]:
        return tuple(self.drafts) or ("NGRAM",)


def prepare(name: str) -> Model:
    """The model called `name`: `knob:SCALE` or `smollm2`.

    Raises:
        ValueError: no such model.
        subprocess.CalledProcessError: it could not be made; the maker has said why.
    """
    kind, _, scale = name.partition(":")
    if kind == "knob" and _is_scale(scale):
        root = _made("knob", "--scale", scale)
        drafts = {"STANDALONE": root / "draft", "EAGLE": root / "eagle"}
        return Model(name, root / "target", "float32", (LoadKind.KNOB,), drafts)
    if name == "smollm2":
        return Model(name, _made("smollm2"), "bfloat16", (LoadKind.CHAT, LoadKind.COPY))
    raise ValueError(f"model={name!r}: allowed are knob:SCALE with SCALE from 0 to 1, and smollm2")


def _made(maker: str, *arguments: str) -> Path:
    """Where the model is; its maker looks into the cache first, and prints the place."""
    argv = [sys.executable, "-m", f"sglang_patch.models.{maker}", *arguments]
    made = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return Path(made.stdout.splitlines()[-1])


def _is_scale(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
