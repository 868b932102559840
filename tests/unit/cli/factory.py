"""Options of a run, for tests that care about one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from control_service.cli.options import UpOptions

_USUAL = UpOptions(
    model="smollm2",
    algorithm=None,
    draft=None,
    candidates=(0, 1, 2, 3, 5),
    device="cpu",
    host="127.0.0.1",
    port=30000,
    control_address="unix:/run/somewhere/control.sock",
    metrics_port=9464,
    run_dir=Path("/run/somewhere"),
    mode="enforce",
    sglang_flags=(),
)


def up_options(**changes: Any) -> UpOptions:
    return replace(_USUAL, **changes)
