"""Thousands of spoilt messages, always the same: nothing is raised, nothing hangs, every invariant holds."""

from __future__ import annotations

import pytest

from tests.fuzz import blind
from tests.fuzz.targets import TARGETS

MESSAGES = {"answers": 12_000, "requests": 6_000, "telemetry": 800, "envelopes": 500}


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_messages_do_no_harm(name: str) -> None:
    report = blind.run(name, MESSAGES[name], seed=1)
    assert not report.findings
