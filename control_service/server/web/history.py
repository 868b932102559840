"""The recent past of every engine, second by second, for the page. Its only owner.

A second holds sums, so that several of them add up to the truth about a longer time. Both
forecasts are made for the very steps that ran, each with its own batch, before they are summed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from control_service.core.forecast import Forecaster
from control_service.core.session import EngineSession
from control_service.core.types import StepObservation

SECONDS_KEPT = 900
FALLBACK = "fallback"


class Rate(NamedTuple):
    """Tokens and the seconds they took, of a number of steps."""

    tokens: float
    seconds: float

    def plus(self, tokens: float, seconds: float) -> Rate:
        """Both sums with one more part."""
        return Rate(self.tokens + tokens, self.seconds + seconds)

    @property
    def per_s(self) -> float:
        """Tokens a second; NaN until there is a step."""
        return self.tokens / self.seconds if self.seconds else float("nan")


NOTHING = Rate(0.0, 0.0)


@dataclass(slots=True)
class Second:
    """The steps reported within one second of the service's clock, `time_s` (Unix), or within several.

    predicted, without: what the models forecast of these steps' tokens and seconds, at the
    lengths they ran and at length 0; only of steps seen while there was a forecast.
    """

    time_s: int
    newest_step_index: int = 0
    requests: int = 0
    waiting_requests: int = 0
    measured: Rate = NOTHING
    predicted: Rate = NOTHING
    without: Rate = NOTHING
    steps_by_num_steps: Counter[int] = field(default_factory=Counter)
    steps_by_source: Counter[str] = field(default_factory=Counter)

    @property
    def steps(self) -> int:
        """How many steps."""
        return self.steps_by_num_steps.total()

    @property
    def num_steps(self) -> int:
        """The length that most steps ran."""
        return self.steps_by_num_steps.most_common(1)[0][0]

    @property
    def batch_size(self) -> float:
        """Requests a step, on average."""
        return self.requests / self.steps

    @property
    def fallback_steps(self) -> int:
        """Steps without a valid lease."""
        return self.steps_by_source[FALLBACK]

    def add_step(self, step: StepObservation, forecaster: Forecaster | None) -> None:
        """One more step."""
        self.newest_step_index = step.step_index
        self.requests += step.batch_size
        self.waiting_requests = step.waiting_requests
        self.measured = self.measured.plus(step.batch_size + sum(step.accepted_drafts), step.duration_s)
        self.steps_by_num_steps[step.num_steps] += 1
        self.steps_by_source[step.source] += 1
        if forecaster is None:
            return
        batch, context = step.batch_size, step.context_tokens
        length = forecaster.lengths.index(step.num_steps)
        self.predicted = self.predicted.plus(
            forecaster.step_tokens(length, batch), forecaster.step_seconds(length, batch, context)
        )
        self.without = self.without.plus(batch, forecaster.step_seconds(0, batch, context))

    def add(self, later: Second) -> None:
        """Take in a later second; `time_s` stays that of the first."""
        self.newest_step_index = later.newest_step_index
        self.requests += later.requests
        self.waiting_requests = later.waiting_requests
        self.measured = self.measured.plus(*later.measured)
        self.predicted = self.predicted.plus(*later.predicted)
        self.without = self.without.plus(*later.without)
        self.steps_by_num_steps.update(later.steps_by_num_steps)
        self.steps_by_source.update(later.steps_by_source)


class EngineHistory:
    """The newest seconds of one engine that had a step, oldest first."""

    def __init__(self) -> None:
        self._seconds: deque[Second] = deque(maxlen=SECONDS_KEPT)

    @property
    def newest_s(self) -> int | None:
        """When the newest step was reported."""
        return self._seconds[-1].time_s if self._seconds else None

    def observe(self, step: StepObservation, forecaster: Forecaster | None, now_s: float) -> None:
        """One reported step. A clock that was set back counts on in the newest second."""
        time_s = max(int(now_s), self.newest_s or 0)
        if time_s != self.newest_s:
            self._seconds.append(Second(time_s))
        self._seconds[-1].add_step(step, forecaster)

    def since(self, time_s: float) -> list[Second]:
        """Seconds from `time_s` on, the one not yet over included."""
        found = []
        for second in reversed(self._seconds):
            if second.time_s < time_s:
                break
            found.append(second)
        return found[::-1]

    def total(self, time_s: float) -> Second:
        """The sum of the seconds from `time_s` on."""
        total = Second(int(time_s))
        for second in self.since(time_s):
            total.add(second)
        return total

    def reported_s(self, step_index: int) -> int | None:
        """When a step of the engine's newest epoch was reported; None if it was not, or that is forgotten."""
        found, later_index = None, None
        for second in reversed(self._seconds):
            index = second.newest_step_index
            # A greater index before a smaller one: there an epoch ended.
            if index < step_index or (later_index is not None and index > later_index):
                return found
            found, later_index = second.time_s, index
        return found if len(self._seconds) < SECONDS_KEPT else None


class StepHistory:
    """Histories by engine_id; of more than `engines_max`, the one without steps for longest goes."""

    def __init__(self, *, engines_max: int, clock: Callable[[], float]) -> None:
        """clock: Unix seconds."""
        self._engines_max = engines_max
        self._clock = clock
        self._engines: dict[str, EngineHistory] = {}

    def __len__(self) -> int:
        return len(self._engines)

    def of(self, engine_id: str) -> EngineHistory:
        """An engine's history; an empty one if it has none."""
        return self._engines.get(engine_id) or EngineHistory()

    def observe(self, session: EngineSession, step: StepObservation) -> None:
        """A step that the session has learned."""
        engine_id = session.profile.engine_id
        history = self._engines.get(engine_id)
        if history is None:
            if len(self._engines) == self._engines_max:
                del self._engines[min(self._engines, key=lambda key: self._engines[key].newest_s or 0)]
            history = self._engines[engine_id] = EngineHistory()
        history.observe(step, session.models.forecaster, self._clock())
