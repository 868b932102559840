"""The knob model as users make it: three checkpoints that load, the same ones every time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open


def make_knob(*arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"TURBOSPEC_CACHE_DIR": str(cache)} if cache else {})}
    return subprocess.run(
        [sys.executable, "-m", "sglang_patch.models.knob", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def knob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    made = make_knob("--scale", "0.06", cache=cache)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines() == [str(cache / "models" / "knob-0.06")]
    return Path(made.stdout.strip())


def test_target_and_drafters_fit_each_other(knob: Path) -> None:
    configs = {
        name: json.loads((knob / name / "config.json").read_text()) for name in ("target", "draft", "eagle")
    }
    assert configs["target"]["num_hidden_layers"] == 12
    assert configs["draft"]["num_hidden_layers"] == configs["eagle"]["num_hidden_layers"] == 1
    assert configs["eagle"]["architectures"] == ["LlamaForCausalLMEagle"]
    assert len({config["vocab_size"] for config in configs.values()}) == 1
    assert len({(knob / name / "tokenizer.json").read_bytes() for name in configs}) == 1
    with safe_open(knob / "eagle" / "model.safetensors", "pt") as head:
        assert "fc.weight" in head.keys()  # noqa: SIM118  (safe_open is no mapping)


def test_the_same_arguments_give_the_same_weights(knob: Path, tmp_path: Path) -> None:
    again = make_knob(str(tmp_path / "again"), "--scale", "0.06")
    assert again.returncode == 0, again.stderr
    assert digests(tmp_path / "again") == digests(knob)


@pytest.mark.parametrize("scale", ["-0.1", "1.5", "much"])
def test_an_unusable_scale_is_refused_with_what_is_allowed(scale: str) -> None:
    refused = make_knob("--scale", scale)
    assert refused.returncode == 2
    assert f"argument --scale: {scale!r}: allowed are numbers from 0" in refused.stderr
