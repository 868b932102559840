"""What an engine can do to the service by asking."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from control_service.core.registry import FencedEpochError, TooManyEnginesError
from control_service.core.validation import InvalidFieldError, check_query
from control_service.server.convert import query_from_proto
from control_service.server.wire import profile_from_proto
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets.sessions import ENGINES_MAX, LIFE_MESSAGES, ask, registry
from turbospec.v1.control_pb2 import DecideRequest


class Requests:
    """DecideRequest bytes -> conversion, validation, registry, session -> an answer an engine believes."""

    def __init__(self) -> None:
        self._seeds = seeds.requests()
        self._fed = 0
        self._begin()

    def seeds(self) -> list[bytes]:
        return self._seeds

    def spoil(self, data: bytes, mutator: Mutator) -> bytes:
        return mutator.message(data, self._seeds, DecideRequest)

    def feed(self, data: bytes) -> None:
        self._fed += 1
        if self._fed % LIFE_MESSAGES == 0:
            self._begin()
        try:
            request = DecideRequest.FromString(data)
            if request.WhichOneof("body") == "profile":
                profile = profile_from_proto(request.profile)
                self._session = self._registry.attach(profile, stream_id=self._fed).session
                self._registry.detach(profile.engine_id, self._fed)
            elif request.WhichOneof("body") == "step":
                query = query_from_proto(request.step)
                check_query(query)
                ask(self._session, query)
        except (DecodeError, InvalidFieldError, FencedEpochError, TooManyEnginesError):
            # Each becomes a status that ends the stream.
            return
        assert len(self._registry) <= ENGINES_MAX

    def _begin(self) -> None:
        self._registry = registry()
        profile = profile_from_proto(seeds.PROFILE)
        self._session = self._registry.attach(profile, stream_id=0).session
        self._registry.detach(profile.engine_id, stream_id=0)
