"""What messages are fed to, and what must hold after each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.fuzz.targets.answers import Answers
from tests.fuzz.targets.envelopes import Envelopes
from tests.fuzz.targets.requests import Requests
from tests.fuzz.targets.target import Target
from tests.fuzz.targets.telemetry import Telemetry

TARGETS: Final[dict[str, Callable[[], Target]]] = {
    "answers": Answers,
    "requests": Requests,
    "telemetry": Telemetry,
    "envelopes": Envelopes,
}
