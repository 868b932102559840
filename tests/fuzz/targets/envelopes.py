"""What a damaged or forged store can do to the service."""

from __future__ import annotations

import hashlib
import json
import zlib

from control_service.core.goodput import GoodputPolicy
from control_service.core.learned import STATE_VERSION, models_from_state
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import Mode, StepQuery
from control_service.core.validation import InvalidFieldError
from control_service.server.wire import profile_from_proto
from control_service.store.envelope import FORMAT, STATE_MAX_BYTES, StateRefusedError, unseal
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets.sessions import ask


class Envelopes:
    """Bytes from a store -> envelope -> checks -> models."""

    def __init__(self) -> None:
        self._envelopes = seeds.envelopes()
        self._profile = profile_from_proto(seeds.PROFILE)
        self._key = self._profile.learned_key()

    def seeds(self) -> list[bytes]:
        return self._envelopes

    def spoil(self, data: bytes, mutator: Mutator) -> bytes:
        """Most of them well sealed, or the checksum would keep everything from what lies behind it."""
        state = _opened(data)
        if state is None or mutator.chance.random() < 0.2:
            return mutator.raw(data, self._envelopes)
        for _ in range(mutator.times()):
            state = mutator.json(state)
        return self._forge(state)

    def feed(self, data: bytes) -> None:
        try:
            models = models_from_state(unseal(self._key, STATE_VERSION, data), self._profile)
        except (StateRefusedError, InvalidFieldError):
            return
        assert models.forecaster is not None
        session = EngineSession(
            self._profile,
            mode=Mode.ENFORCE,
            policy=GoodputPolicy(self._profile),
            models=models,
            terms=LeaseTerms(),
        )
        ask(session, StepQuery(1, 2, 300, 0))

    def _forge(self, state: bytes) -> bytes:
        """Seal whatever it is, so that only its content can give it away."""
        body = zlib.compress(state, 1)
        header = {
            "format": FORMAT,
            "version": STATE_VERSION,
            "key": self._key,
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        return json.dumps(header).encode() + b"\n" + body


def _opened(sealed: bytes) -> bytes | None:
    """The state in an envelope; None if there is none."""
    try:
        return zlib.decompressobj().decompress(sealed.partition(b"\n")[2], STATE_MAX_BYTES)
    except zlib.error:
        return None
