"""Sessions by engine_id, fenced by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from control_service.core.goodput import GoodputPolicy
from control_service.core.models import EngineModels
from control_service.core.policy import Policy, StaticPolicy
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import EngineProfile, Mode
from control_service.core.validation import InvalidFieldError, check_profile

MAX_PARAMETERS = 16


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


def make_policy(name: str, parameters: dict[str, str], profile: EngineProfile) -> Policy:
    """The policy an operator named. Raises InvalidFieldError."""
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidFieldError("parameters", len(parameters), f"at most {MAX_PARAMETERS}")
    factory = _FACTORIES.get(name)
    if factory is None:
        raise InvalidFieldError("policy", name, f"one of {sorted(_FACTORIES)}")
    return factory(dict(parameters), profile)


def _goodput(parameters: dict[str, str], profile: EngineProfile) -> Policy:
    _no_more(parameters, "goodput")
    return GoodputPolicy(profile)


def _static(parameters: dict[str, str], profile: EngineProfile) -> Policy:
    text = parameters.pop("num_steps", "")
    _no_more(parameters, "static")
    allowed = f"one of the candidates {profile.candidate_num_steps}"
    if not text.isascii() or not text.isdigit() or int(text) not in profile.candidate_num_steps:
        raise InvalidFieldError("parameters.num_steps", text, allowed)
    return StaticPolicy(int(text), profile.max_running_requests)


def _no_more(parameters: dict[str, str], policy: str) -> None:
    if parameters:
        raise InvalidFieldError("parameters", sorted(parameters), f"parameters of policy {policy}")


_FACTORIES: dict[str, Callable[[dict[str, str], EngineProfile], Policy]] = {
    "goodput": _goodput,
    "static": _static,
}


class EngineRegistry:
    """All engines known to this service; the only owner of sessions."""

    def __init__(self, *, engines_max: int, mode: Mode, terms: LeaseTerms) -> None:
        self._engines_max = engines_max
        self._mode = mode
        self._terms = terms
        self._entries: dict[str, EngineEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[EngineEntry]:
        return iter(list(self._entries.values()))

    def get(self, engine_id: str) -> EngineEntry | None:
        """The entry of an engine, if it is known."""
        return self._entries.get(engine_id)

    def attach(self, profile: EngineProfile, stream_id: int) -> EngineEntry:
        """A stream introduces itself; it takes the engine over from an earlier stream or epoch.

        Raises InvalidFieldError, FencedEpochError or TooManyEnginesError.
        """
        check_profile(profile)
        entry = self._entries.get(profile.engine_id)
        if entry is None:
            self._make_room()
            entry = EngineEntry(self._new_session(profile, None))
        elif profile.epoch < entry.session.profile.epoch:
            raise FencedEpochError(
                f"epoch {profile.epoch} of engine {profile.engine_id!r} is fenced:"
                f" epoch {entry.session.profile.epoch} owns it"
            )
        elif profile.epoch > entry.session.profile.epoch:
            entry.session = self._new_session(profile, entry.session)
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

    def _new_session(self, profile: EngineProfile, before: EngineSession | None) -> EngineSession:
        same = before is not None and before.profile_hash == profile.learned_key()
        session = EngineSession(
            profile,
            mode=before.mode if before is not None else self._mode,
            policy=GoodputPolicy(profile),
            models=before.models if before is not None and same else EngineModels(profile),
            terms=self._terms,
        )
        if before is not None:
            session.canary_percent = before.canary_percent
            if same and not isinstance(before.policy, GoodputPolicy):
                session.policy = before.policy
        return session

    def _make_room(self) -> None:
        if len(self._entries) < self._engines_max:
            return
        idle = next((key for key, entry in self._entries.items() if not entry.connected), None)
        if idle is None:
            raise TooManyEnginesError(f"{len(self._entries)} engines are connected, no more are allowed")
        del self._entries[idle]
