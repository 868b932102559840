"""Streams of random numbers: of one seed, the same for every policy, so that runs differ by policy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Seeds(NamedTuple):
    """Independent streams of one seed."""

    order: np.random.SeedSequence
    noise: np.random.SeedSequence
    acceptance: np.random.SeedSequence
    telemetry: np.random.SeedSequence
    drift: np.random.SeedSequence


def seeds_of(seed: int) -> Seeds:
    """The streams of a seed."""
    return Seeds(*(np.random.SeedSequence(seed, spawn_key=(place,)) for place in range(len(Seeds._fields))))


def child(seed: np.random.SeedSequence, place: int) -> np.random.SeedSequence:
    """The stream of one phase: it begins anew there, however many numbers earlier phases took.

    Unlike `spawn` it gives the same child every time.
    """
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, place))
