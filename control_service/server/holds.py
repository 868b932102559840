"""Policies that are set for a while: when it is over, the policy before comes back.

So that a client which sets a policy for its own purposes cannot leave it behind, however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import structlog

from control_service.core.policy import Policy
from control_service.core.registry import EngineEntry, EngineRegistry

HOLD_MAX_MS = 24 * 60 * 60 * 1_000

_log = structlog.get_logger(__name__)


class _Hold(NamedTuple):
    policy: Policy
    before: Policy
    before_parameters: dict[str, str]
    timer: asyncio.TimerHandle


class PolicyHolds:
    """At most one hold an engine. Used on the event loop only, whose time it goes by."""

    def __init__(self, registry: EngineRegistry) -> None:
        self._registry = registry
        self._holds: dict[str, _Hold] = {}

    def set_policy(
        self, entry: EngineEntry, policy: Policy, parameters: Mapping[str, str], hold_for_ms: int
    ) -> None:
        """Set an engine's policy, for good if `hold_for_ms` is 0.

        A hold that is set during a hold goes back to what was before both.
        """
        session = entry.session
        engine_id = session.profile.engine_id
        before, before_parameters = session.policy, session.policy_parameters
        earlier = self._holds.pop(engine_id, None)
        if earlier is not None:
            earlier.timer.cancel()
            if session.policy is earlier.policy:
                before, before_parameters = earlier.before, earlier.before_parameters
        session.set_policy(policy, parameters)
        if hold_for_ms:
            timer = asyncio.get_running_loop().call_later(hold_for_ms / 1e3, self._end, engine_id)
            self._holds[engine_id] = _Hold(policy, before, before_parameters, timer)

    def left_ms(self, engine_id: str) -> int:
        """Milliseconds until the engine's policy before comes back; 0 if its policy stays."""
        hold = self._holds.get(engine_id)
        if hold is None or not self._in_force(engine_id, hold):
            return 0
        return max(round((hold.timer.when() - asyncio.get_running_loop().time()) * 1e3), 1)

    def _end(self, engine_id: str) -> None:
        hold = self._holds.pop(engine_id)
        if self._in_force(engine_id, hold):
            entry = self._registry.get(engine_id)
            assert entry is not None
            entry.session.set_policy(hold.before, hold.before_parameters)
            _log.info("policy_hold_ended", engine_id=engine_id, policy=hold.before.name)

    def _in_force(self, engine_id: str, hold: _Hold) -> bool:
        """Whether the policy still decides: an engine that came back as another one has begun anew."""
        entry = self._registry.get(engine_id)
        return entry is not None and entry.session.policy is hold.policy
