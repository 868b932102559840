"""What `turbospec up` prints once everything is healthy."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from control_service.cli.options import UpOptions
from control_service.cli.state import DEFAULT_RUN_DIR, RunState

EXAMPLE_PROMPT: Final = "Explain speculative decoding in one sentence."


def announce(state: RunState, options: UpOptions, as_json: bool) -> None:
    """On stdout: for a person, or in one line of JSON for a program."""
    if as_json:
        print(json.dumps(asdict(state)), flush=True)
        return
    lines = [f"\nServing {state.model} at {state.endpoint}/v1"]
    if state.control_address:
        lengths = ", ".join(map(str, state.candidates))
        lines += [
            f"  speculation  {state.algorithm}, lengths {lengths}, mode {options.mode}",
            f"  control      {state.control_address}",
            f"  page         {state.page_url}",
            f"  metrics      {state.metrics_url}",
        ]
    lines += [f"  logs         {state.logs}", "Try it:", f"  {example_request(state)}"]
    if state.control_address:
        lines.append(f"  {status_command(options.run_dir)}")
    print("\n".join([*lines, "Ctrl-C stops everything."]), flush=True)


def example_request(state: RunState) -> str:
    """A curl line that gets a chat completion from this run."""
    body = {
        "model": state.model,
        "messages": [{"role": "user", "content": EXAMPLE_PROMPT}],
        "max_tokens": 64,
    }
    url = f"{state.endpoint}/v1/chat/completions"
    return f"curl -sw '\\n' {url} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


def status_command(run_dir: Path) -> str:
    """How to look at this run from the directory we were started in, whatever is on the PATH."""
    words = ["turbospec", "status"]
    beside_us = Path(sys.executable).parent / "turbospec"
    if shutil.which("turbospec") != str(beside_us):
        words[0] = os.path.relpath(beside_us)
    relative = os.path.relpath(run_dir)
    return shlex.join(words if relative == DEFAULT_RUN_DIR else [*words, "--run-dir", relative])
