"""What anybody can do to the service by telemetry."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from control_service.core.session import REMEMBERED_STEPS
from control_service.core.types import StepQuery
from control_service.server.convert import explanation_to_proto, models_to_proto, status_to_proto
from control_service.server.trace import TraceServicer
from control_service.server.watch import StepWatchers
from control_service.server.web.history import SECONDS_KEPT, StepHistory
from control_service.server.wire import observed_step_to_proto, profile_from_proto
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets.sessions import ENGINES_MAX, LIFE_MESSAGES, ask, registry
from turbospec.v1 import telemetry as names

# Distinct causes and reasons; all come from fixed sets.
LABELS_MAX: Final = 64
# Every so many messages, what was learned is read back.
READ_BACK_MESSAGES: Final = 8


class Telemetry:
    """ExportTraceServiceRequest bytes -> the OTLP intake -> a session, its models and all that reads them."""

    def __init__(self) -> None:
        self._seeds = seeds.export_requests()
        self._fed = 0
        self._begin()

    def seeds(self) -> list[bytes]:
        return self._seeds

    def spoil(self, data: bytes, mutator: Mutator) -> bytes:
        return _renumbered(
            mutator.message(data, self._seeds, ExportTraceServiceRequest), mutator.chance.randrange(1 << 40)
        )

    def feed(self, data: bytes) -> None:
        self._fed += 1
        if self._fed % LIFE_MESSAGES == 0:
            self._begin()
        with suppress(_Aborted):
            _run(self._servicer.export(data, _Context()))
        session, counters = self._session, self._session.counters
        assert len(self._servicer.drops_by_cause) <= LABELS_MAX
        assert len(counters.drops_by_cause) <= LABELS_MAX
        assert len(counters.fallbacks_by_reason) <= LABELS_MAX
        assert counters.steps_by_source.keys() <= {"lease", "fallback", "launch_length", "kill_switch"}
        assert counters.steps_by_num_steps.keys() <= set(seeds.CANDIDATES)
        assert sum(counters.steps_by_source.values()) == counters.steps_total
        assert sum(counters.steps_by_num_steps.values()) == counters.steps_total
        assert sum(counters.fallbacks_by_reason.values()) == counters.steps_by_source["fallback"]
        assert len(session._seen_steps) == len(session._seen_order) <= REMEMBERED_STEPS
        while self._watcher._queue:
            observed_step_to_proto("engine", seeds.EPOCH, self._watcher._queue.popleft().step)
        if self._fed % READ_BACK_MESSAGES == 0:
            self._read_back()

    def _read_back(self) -> None:
        """What an operator and an engine ask of a session that has learned this."""
        session = self._session
        entry = self._registry.get(session.profile.engine_id)
        assert entry is not None
        history = self._history.of(session.profile.engine_id)
        assert len(history.since(0.0)) <= SECONDS_KEPT
        history.total(0.0)
        status_to_proto(entry, policy_hold_left_ms=0)
        models_to_proto(entry)
        for batch_size in (1, 16, 300):
            ask(session, StepQuery(seeds.ASKED_STEP, batch_size, 0, 0))
        explanation_to_proto("engine", session.decisions[-1])

    def _begin(self) -> None:
        self._registry = registry()
        self._session = self._registry.attach(profile_from_proto(seeds.PROFILE), stream_id=0).session
        watchers = StepWatchers()
        self._watch = watchers.watching("")
        self._watcher = self._watch.__enter__()
        self._history = StepHistory(engines_max=ENGINES_MAX, clock=self._clock_s)
        # As many spans as come: what the limit lets through is what counts here.
        self._servicer = TraceServicer(
            self._registry,
            watchers,
            self._history,
            spans_per_s=1_000_000,
            engines_max=ENGINES_MAX,
            clock=self._clock_s,
        )

    def _clock_s(self) -> float:
        return float(self._fed)


class _Aborted(Exception):
    """Stands for the status that ends a call."""


class _Context:
    """Of a call: all that the OTLP intake uses of it."""

    async def abort(self, _code: object, _details: str) -> None:
        raise _Aborted


def _run(call: Coroutine[Any, None, Any]) -> None:
    """To its end: all that the intake waits for is its turn, and here there is nobody else."""
    with suppress(StopIteration):
        while True:
            call.send(None)


def _renumbered(data: bytes, by: int) -> bytes:
    """With step numbers of their own: as duplicates of earlier ones, most would be refused at the door."""
    try:
        request = ExportTraceServiceRequest.FromString(data)
    except DecodeError:
        return data
    for group in request.resource_spans:
        for span in (span for scope in group.scope_spans for span in scope.spans):
            for attribute in span.attributes:
                if attribute.key == names.STEP_INDEX and 0 < attribute.value.int_value <= seeds.STEPS:
                    attribute.value.int_value += by
    return request.SerializeToString()
