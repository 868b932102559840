"""Sessions by engine_id, fenced by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from control_service.core.goodput import GoodputPolicy
from control_service.core.models import EngineModels
from control_service.core.policies.make import make_policy
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import EngineProfile, Mode
from control_service.core.validation import check_profile

__all__ = ["EngineEntry", "EngineRegistry", "FencedEpochError", "TooManyEnginesError", "make_policy"]


class FencedEpochError(Exception):
    """A newer epoch owns the engine_id, or the epoch already has another profile."""


class TooManyEnginesError(Exception):
    """No room for another engine while all the known ones are connected."""


@dataclass(slots=True)
class EngineEntry:
    """An engine_id: its current session, and whether a stream is attached to it."""

    session: EngineSession
    stream_id: int | None = None

    @property
    def connected(self) -> bool:
        """Whether a stream is attached."""
        return self.stream_id is not None


class EngineRegistry:
    """All engines known to this service; the only owner of sessions.

    `mode` and `canary_percent` are those of an engine that is new. `evicted_total` counts engines forgotten,
    longest away first, to make room for others.
    """

    def __init__(self, *, engines_max: int, mode: Mode, canary_percent: int = 0, terms: LeaseTerms) -> None:
        self._engines_max = engines_max
        self._mode = mode
        self._canary_percent = canary_percent
        self.evicted_total = 0
        self._terms = terms
        self._entries: dict[str, EngineEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[EngineEntry]:
        return iter(list(self._entries.values()))

    def get(self, engine_id: str) -> EngineEntry | None:
        """The entry of an engine, if it is known."""
        return self._entries.get(engine_id)

    def has_models(self, profile: EngineProfile) -> bool:
        """Whether this engine is known with the same profile, so that its models live on."""
        entry = self._entries.get(profile.engine_id)
        return entry is not None and entry.session.profile_hash == profile.learned_key()

    def attach(
        self, profile: EngineProfile, stream_id: int, models: EngineModels | None = None
    ) -> EngineEntry:
        """A stream introduces itself; it takes the engine over from an earlier stream or epoch.

        `models`, of the same profile, are what an engine begins with that has none here.
        Raises InvalidFieldError, FencedEpochError or TooManyEnginesError.
        """
        check_profile(profile)
        entry = self._entries.get(profile.engine_id)
        if entry is None:
            self._make_room()
            entry = EngineEntry(self._new_session(profile, None, models))
        elif profile.epoch < entry.session.profile.epoch:
            raise FencedEpochError(
                f"epoch {profile.epoch} of engine {profile.engine_id!r} is fenced:"
                f" epoch {entry.session.profile.epoch} owns it"
            )
        elif profile.epoch > entry.session.profile.epoch:
            entry.session = self._new_session(profile, entry.session, models)
        elif profile != entry.session.profile:
            raise FencedEpochError(
                f"epoch {profile.epoch} of engine {profile.engine_id!r} is already known with another profile"
            )
        entry.stream_id = stream_id
        # Re-inserting keeps the entries in order of their last attachment.
        self._entries.pop(profile.engine_id, None)
        self._entries[profile.engine_id] = entry
        return entry

    def detach(self, engine_id: str, stream_id: int) -> None:
        """A stream ended; ignored if another has taken over since."""
        entry = self._entries.get(engine_id)
        if entry is not None and entry.stream_id == stream_id:
            entry.stream_id = None

    def _new_session(
        self, profile: EngineProfile, before: EngineSession | None, models: EngineModels | None
    ) -> EngineSession:
        same = before is not None and before.profile_hash == profile.learned_key()
        session = EngineSession(
            profile,
            mode=before.mode if before is not None else self._mode,
            policy=GoodputPolicy(profile),
            models=before.models if before is not None and same else models or EngineModels(profile),
            terms=self._terms,
        )
        session.canary_percent = before.canary_percent if before is not None else self._canary_percent
        if before is not None and same and not isinstance(before.policy, GoodputPolicy):
            session.set_policy(before.policy, before.policy_parameters)
        return session

    def _make_room(self) -> None:
        if len(self._entries) < self._engines_max:
            return
        idle = next((key for key, entry in self._entries.items() if not entry.connected), None)
        if idle is None:
            raise TooManyEnginesError(f"{len(self._entries)} engines are connected, no more are allowed")
        del self._entries[idle]
        self.evicted_total += 1
