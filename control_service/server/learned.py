"""Keeps what the models have learned across restarts, off the event loop.

An engine that is new to this process gets a copy of what is kept for its profile. Engines of one
profile keep their models apart and are saved under one key: the one that has seen most wins a round,
and the last writer wins among services that share a store (`control_service.store.redis` says what that
may lose). A service that already has models for an engine keeps them, even if the engine was elsewhere
in between.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from control_service.core.learned import (
    STATE_VERSION,
    LearnedSnapshot,
    models_from_state,
    snapshot_of,
    state_of,
)
from control_service.core.models import EngineModels
from control_service.core.registry import EngineRegistry
from control_service.core.session import EngineSession
from control_service.core.types import EngineProfile
from control_service.core.validation import InvalidFieldError, check_profile
from control_service.store.envelope import StateRefusedError, seal, unseal
from control_service.store.protocol import Store, StoreError

# An engine must not wait for a slow store: it starts cold instead.
LOAD_TIMEOUT_S = 1.0
LAST_SAVE_TIMEOUT_S = 5.0
_NOT_DONE = {"load": "learned_state_not_used", "save": "learned_state_not_saved"}

Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class LearnedKeeper:
    """Loads for engines that attach, saves what has changed now and then, and once more at the end.

    Without a store it does nothing. A store that fails is said so once until it works again, and counted:
    `errors_by_operation` (load, save) of a store that failed or took too long, `refused_total` kept states
    that did not fit, `loads_total` and `saves_total` states that were taken up and saved.
    """

    def __init__(self, store: Store | None, registry: EngineRegistry, *, save_interval_s: float) -> None:
        self._store = store
        self._registry = registry
        self._save_interval_s = save_interval_s
        # One thread: a store is used by one caller at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learned-store")
        self._saved: dict[str, tuple[int, int]] = {}
        self._failing: set[str] = set()
        self.errors_by_operation: Counter[str] = Counter()
        self.refused_total = 0
        self.loads_total = 0
        self.saves_total = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to save."""
        if self._store is not None:
            self._task = asyncio.create_task(self._save_now_and_then())

    async def stop(self) -> None:
        """Save what has changed and let go of the store."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._store is not None:
            try:
                async with asyncio.timeout(LAST_SAVE_TIMEOUT_S):
                    await self.save_changed()
                    await self._in_thread(self._store.close)
            except TimeoutError:
                self._failed("save", f"not done within {LAST_SAVE_TIMEOUT_S:g} s")
            self._store = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def models_for(self, profile: EngineProfile) -> EngineModels | None:
        """Warm models for an engine that this process has none of; None if it must start cold.

        Raises InvalidFieldError for a profile that breaks the contract.
        """
        check_profile(profile)
        key = profile.learned_key()
        if self._store is None or self._registry.has_models(profile):
            return None
        log = _log.bind(engine_id=profile.engine_id, profile_hash=key)
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                models = await self._in_thread(functools.partial(_load, self._store, key, profile))
        except TimeoutError:
            self._failed("load", f"the store took over {LOAD_TIMEOUT_S:g} s", profile_hash=key)
            return None
        except StoreError as error:
            self._failed("load", str(error), profile_hash=key)
            return None
        except (StateRefusedError, InvalidFieldError) as error:
            self._failing.discard("load")
            self.refused_total += 1
            log.warning("learned_state_not_used", reason=str(error))
            return None
        self._failing.discard("load")
        if models is None:
            log.info("learned_state_not_used", reason="nothing is kept for engines of this profile")
            return None
        self.loads_total += 1
        log.info("learned_state_loaded", model_generation=models.generation)
        return models

    async def save_changed(self) -> None:
        """Save every profile of which steps were seen since its last save."""
        due = self._due() if self._store is not None else {}
        for session in due.values():
            # What is taken here is as of this moment; the rest happens in the thread.
            snapshot, mark = snapshot_of(session.models), _mark(session)
            if await self._save(session.profile_hash, snapshot):
                self._saved[session.profile.engine_id] = mark

    def _due(self) -> dict[str, EngineSession]:
        sessions = {entry.session.profile.engine_id: entry.session for entry in self._registry}
        self._saved = {engine_id: mark for engine_id, mark in self._saved.items() if engine_id in sessions}
        due: dict[str, EngineSession] = {}
        for engine_id, session in sessions.items():
            fresh = session.counters.steps_total > 0 and self._saved.get(engine_id) != _mark(session)
            # Models that cannot decide yet must not replace ones that can.
            if not fresh or session.models.forecaster is None:
                continue
            rival = due.get(session.profile_hash)
            if rival is None or session.models.generation > rival.models.generation:
                due[session.profile_hash] = session
        return due

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._save_interval_s)
            try:
                await self.save_changed()
            except Exception:
                # A defect of ours: it must neither pass in silence nor end the saving for good.
                _log.exception("learned_state_not_saved")

    async def _save(self, key: str, snapshot: LearnedSnapshot) -> bool:
        assert self._store is not None
        try:
            size = await self._in_thread(functools.partial(_write, self._store, key, snapshot))
        except StoreError as error:
            self._failed("save", str(error), profile_hash=key)
            return False
        if "save" in self._failing:
            self._failing.remove("save")
            _log.info("learned_state_saved_again", profile_hash=key)
        self.saves_total += 1
        _log.debug("learned_state_saved", profile_hash=key, bytes=size)
        return True

    def _failed(self, operation: str, reason: str, **fields: str) -> None:
        """Counted always, said once until the operation works again."""
        self.errors_by_operation[operation] += 1
        if operation not in self._failing:
            self._failing.add(operation)
            _log.warning(_NOT_DONE[operation], reason=reason, **fields)

    async def _in_thread(self, action: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)


def _mark(session: EngineSession) -> tuple[int, int]:
    return session.profile.epoch, session.counters.steps_total


def _load(store: Store, key: str, profile: EngineProfile) -> EngineModels | None:
    sealed = store.load(key)
    return None if sealed is None else models_from_state(unseal(key, STATE_VERSION, sealed), profile)


def _write(store: Store, key: str, snapshot: LearnedSnapshot) -> int:
    sealed = seal(key, STATE_VERSION, state_of(snapshot))
    store.save(key, sealed)
    return len(sealed)
