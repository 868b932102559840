"""The reasons of decisions as sentences for people."""

from __future__ import annotations

from typing import Final

_SENTENCES: Final = {
    "best_goodput": "length {length} has the highest expected goodput",
    "hold_within_uncertainty": (
        "length {length} was in force, and what length {rival} promises more is within its uncertainty"
    ),
    "probe": "a few steps are spent to learn about length {length}, which could pay",
    "cold_start": "too little is known yet: every length runs a few steps in turn",
    "no_telemetry": "no step of this engine has been reported yet, so it does not speculate",
    "models_not_ready": "the models do not fit what was reported so far",
    "telemetry_stale": "no step has been reported for long, so the models tell of the past",
    "guard": "speculation was measured to lose against none, so it is off for a while",
    "static": "the operator has set this length",
}


def reason_sentence(reason: str, *, policy: str, num_steps: int, rival_num_steps: int | None) -> str:
    """Why `num_steps` was chosen over `rival_num_steps`; an unknown reason leaves it to the policy's name."""
    sentence = _SENTENCES.get(reason)
    if sentence is None:
        return f"policy {policy} says so"
    return sentence.format(length=num_steps, rival=rival_num_steps)
