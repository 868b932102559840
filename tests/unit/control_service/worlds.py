"""Engines with known truths, for the closed-loop simulator."""

from __future__ import annotations

import math

from tests.unit.control_service.simulator import Acceptance, Batch, Cost, World


def constant(rate: float, decay: float = 1.0) -> Acceptance:
    """The same conditional rate at every position, or decaying by position."""
    rates = tuple(rate * decay**position for position in range(8))
    return lambda _: rates


def shifting(before: float, after: float, at_s: float) -> Acceptance:
    """Another rate from a time on."""
    first, second = (before,) * 8, (after,) * 8
    return lambda now_s: first if now_s < at_s else second


def linear(base_s: float, request_s: float, draft: float, token: float = 0.0) -> Cost:
    """Step = base + request * B, drafts each a share of that, verified tokens a share of base; length 0 pays
    one draft-extend."""

    def cost(batch: int, length: int, context: float) -> float:
        target_s = base_s + request_s * batch + 1e-7 * context
        return target_s * (1.0 + draft * max(length, 0.6) + token * length * batch)

    return cost


def staircase(base_s: float, tile: int, draft: float) -> Cost:
    """Verification is paid in tiles of tokens."""

    def cost(batch: int, length: int, context: float) -> float:
        tiles = math.ceil(batch * (length + 1) / tile)
        return base_s * (0.6 + 0.4 * tiles + draft * max(length, 0.6)) + 1e-7 * context

    return cost


def clients(count: int) -> Batch:
    """A closed loop of clients; now and then one is between two requests."""
    return lambda now_s: count - (1 if count > 1 and int(now_s * 10.0) % 7 == 0 else 0)


def phases(*counts: int, phase_s: float) -> Batch:
    """Client counts that hold for a while each, over and over."""
    return lambda now_s: clients(counts[int(now_s / phase_s) % len(counts)])(now_s)


def jitter(low: int, high: int) -> Batch:
    """Requests come and go all the time."""
    middle, swing = (low + high) / 2.0, (high - low) / 2.0
    return lambda now_s: round(middle + swing * math.sin(now_s * 1.7) * math.cos(now_s * 0.61))


STEADY = (
    World("high acceptance, cheap, 1", constant(0.9), linear(0.02, 0.0005, 0.03), clients(1)),
    World("high acceptance, cheap, 8", constant(0.9), linear(0.02, 0.0005, 0.03), clients(8)),
    World("low acceptance, cheap, 4", constant(0.3), linear(0.02, 0.0005, 0.05), clients(4)),
    World("middling, expensive, 1", constant(0.7), linear(0.03, 0.001, 0.2), clients(1)),
    World("middling, expensive, 8", constant(0.7), linear(0.03, 0.003, 0.2, 0.01), clients(8)),
    World("decaying positions, 4", constant(0.85, 0.75), linear(0.015, 0.001, 0.08), clients(4)),
    World("never pays, 1", constant(0.15), linear(0.02, 0.001, 0.3), clients(1)),
    World("never pays, 8", constant(0.15), linear(0.005, 0.0002, 0.3, 0.02), clients(8)),
    World("nearly ties, 2", constant(0.55), linear(0.02, 0.001, 0.12), clients(2)),
    World("staircase, 4", constant(0.75), staircase(0.02, 16, 0.05), clients(4)),
    World("staircase, 8", constant(0.75), staircase(0.02, 16, 0.05), clients(8)),
    World("slow steps, 8", constant(0.8), linear(0.08, 0.002, 0.1), clients(8)),
    World("fast steps, 2", constant(0.8), linear(0.005, 0.0002, 0.1), clients(2), noise=0.1),
    World(
        "busy neighbour, 4", constant(0.7), linear(0.02, 0.001, 0.12), clients(4),
        slowdown=lambda now_s: 1.2 if int(now_s / 7.0) % 2 else 1.0,
    ),
)  # fmt: skip

MOVING = (
    World("clients 1-8-2", constant(0.7), linear(0.01, 0.002, 0.12, 0.02), phases(1, 8, 2, phase_s=10.0)),
    World("batch jitters 2-7", constant(0.7), linear(0.01, 0.002, 0.12, 0.02), jitter(2, 7)),
    World(
        "compute bound, 2-48", constant(0.75), linear(0.02, 0.0004, 0.04, 0.006),
        phases(2, 48, phase_s=8.0), duration_s=95.0,
    ),
    World("acceptance .2 to .85", shifting(0.2, 0.85, 50.0), linear(0.02, 0.001, 0.2), clients(4)),
    World(
        "never pays, then pays",
        shifting(0.05, 0.9, 50.0),
        linear(0.02, 0.001, 0.25),
        clients(2),
        duration_s=95.0,
    ),
    # What an n-gram drafter on a CPU meets: steps of 40 ms and more, texts that copy and texts that do not.
    World(
        "slow, acceptance .15 and .7 in turns, 8",
        lambda now_s: (0.7 if now_s % 40.0 >= 20.0 else 0.15,) * 8,
        linear(0.028, 0.001, 0.01, 0.012),
        clients(8),
    ),
    World("acceptance .85 to .1", shifting(0.85, 0.1, 50.0), linear(0.02, 0.001, 0.15), clients(4)),
)  # fmt: skip
