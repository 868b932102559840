"""Labels that several metrics have."""

from __future__ import annotations

from typing import Final

from control_service.core.validation import MAX_CANDIDATES, MAX_LENGTH
from control_service.server.metrics.measure import Label

# Reasons of all policies and causes of refusal are words of the code, fewer than this.
WORDS_MAX: Final = 64

NUM_STEPS: Final = Label("num_steps", "speculation length, one of the engine's candidates", MAX_CANDIDATES)
POSITION: Final = Label("position", "draft position, from 1", MAX_LENGTH)
