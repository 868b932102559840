"""An engine that was really decided for and learned from, step by step, with a clock in hand."""

from __future__ import annotations

import random
from typing import Any

from control_service.core.registry import EngineEntry, EngineRegistry
from control_service.core.session import LeaseTerms
from control_service.core.types import Mode
from control_service.server.web.history import EngineHistory, StepHistory
from control_service.server.web.views import PageViews
from tests.unit.control_service.factories import observation, profile, query

START_S = 1_700_000_000.0


class Served:
    """A registry, its history and views; time passes only when told."""

    def __init__(self, *, engines_max: int = 4, mode: Mode = Mode.ENFORCE) -> None:
        self.now_s = START_S
        terms = LeaseTerms(valid_for_steps=16, valid_for_ms=1_000, decisions_kept=4_096)
        self.registry = EngineRegistry(engines_max=engines_max, mode=mode, terms=terms)
        self.step_history = StepHistory(engines_max=engines_max, clock=lambda: self.now_s)
        self.views = PageViews(self.registry, self.step_history, version="1.2.3", clock=lambda: self.now_s)

    def attach(self, engine_id: str = "engine", **changes: Any) -> EngineEntry:
        return self.registry.attach(profile(engine_id=engine_id, **changes), 1)

    def history(self, engine_id: str = "engine") -> EngineHistory:
        return self.step_history.of(engine_id)

    def serve(
        self,
        entry: EngineEntry,
        steps: int,
        *,
        acceptance: float = 0.8,
        batch: int = 2,
        draft_s: float = 0.0005,
        source: str = "lease",
        steps_per_s: float = 50.0,
    ) -> None:
        """An obedient engine whose drafts are all accepted with this chance, or all refused."""
        session, rng = entry.session, random.Random(1)
        before = session.newest_step
        index, previous = (before.step_index, before.num_steps) if before is not None else (0, -1)
        full = (False,) * batch
        for _ in range(steps):
            index += 1
            lease = session.decide(query(index, batch, 100 * batch))
            length = next((tier.num_steps for tier in lease.tiers if tier.max_batch_size >= batch), 0)
            accepted = tuple(length if rng.random() < acceptance else 0 for _ in range(batch))
            duration_s = (0.01 + draft_s * length) * rng.lognormvariate(0.0, 0.02)
            step = observation(
                *(index, length, accepted, duration_s),
                previous_num_steps=previous,
                source=source,
                after_full_accept=full,
            )
            if length:
                full = tuple(count == length for count in accepted)
            assert session.observe(step) is None
            self.step_history.observe(session, step)
            previous = length
            if session.needs_refit:
                session.refit()
            self.now_s += 1.0 / steps_per_s
