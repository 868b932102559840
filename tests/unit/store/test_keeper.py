"""What is saved when, and that no store, however bad, costs more than a cold start."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from control_service.core.learned import STATE_VERSION, models_from_state
from control_service.core.models import EngineModels
from control_service.core.registry import EngineRegistry
from control_service.core.session import EngineSession, LeaseTerms
from control_service.core.types import EngineProfile, Mode
from control_service.core.validation import InvalidFieldError
from control_service.server import learned as keeper_module
from control_service.server.learned import LearnedKeeper
from control_service.store.envelope import unseal
from control_service.store.protocol import StoreError
from tests.unit.control_service.factories import observation, profile

KEY = profile().learned_key()


class MemoryStore:
    """A store that can be told to fail, and that counts its calls."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.failing = False
        self.loads = 0
        self.saves = 0
        self.closed = False
        self.hurry = threading.Event()
        self.hurry.set()
        self.threads: set[str] = set()

    def load(self, key: str) -> bytes | None:
        self._called()
        self.loads += 1
        return self.kept.get(key)

    def save(self, key: str, state: bytes) -> None:
        self._called()
        self.saves += 1
        self.kept[key] = state

    def close(self) -> None:
        self.closed = True

    def _called(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.hurry.wait(10)
        if self.failing:
            raise StoreError("the disk is full")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def registry() -> EngineRegistry:
    return EngineRegistry(engines_max=4, mode=Mode.ENFORCE, terms=LeaseTerms())


@pytest.fixture
def keeper(store: MemoryStore, registry: EngineRegistry) -> LearnedKeeper:
    return LearnedKeeper(store, registry, save_interval_s=3_600.0)


def teach(session: EngineSession, steps: int = 60) -> None:
    first = session.counters.steps_total + 1
    for index in range(first, first + steps):
        length = session.profile.candidate_num_steps[index // 6 % 5]
        assert session.observe(observation(index, length, (length,), 0.02)) is None
    session.refit()


def attach(registry: EngineRegistry, models: EngineModels | None = None, **changes: Any) -> EngineSession:
    return registry.attach(profile(**changes), 1, models).session


def kept_models(store: MemoryStore, of: EngineProfile) -> EngineModels:
    key = of.learned_key()
    return models_from_state(unseal(key, STATE_VERSION, store.kept[key]), of)


async def test_what_was_learned_is_saved_once_a_change_and_loaded_for_the_next(
    keeper: LearnedKeeper, registry: EngineRegistry, store: MemoryStore
) -> None:
    session = attach(registry)
    await keeper.save_changed()
    assert store.saves == 0
    teach(session)
    await keeper.save_changed()
    await keeper.save_changed()
    assert store.saves == 1
    teach(session)
    await keeper.save_changed()
    assert store.saves == 2
    models = await keeper.models_for(profile(engine_id="another"))
    assert models is not None
    assert models.forecaster is not None
    # Neither side shares anything with what is kept.
    assert models is not session.models
    assert all(name.startswith("learned-store") for name in store.threads)


async def test_models_that_cannot_decide_yet_do_not_replace_ones_that_can(
    keeper: LearnedKeeper, registry: EngineRegistry, store: MemoryStore
) -> None:
    session = attach(registry)
    assert session.observe(observation(1, 0, (0,))) is None
    session.refit()
    await keeper.save_changed()
    assert store.saves == 0


async def test_loaded_models_are_not_saved_until_something_was_added(
    keeper: LearnedKeeper, registry: EngineRegistry, store: MemoryStore
) -> None:
    teach(attach(registry))
    await keeper.save_changed()
    models = await keeper.models_for(profile(engine_id="another"))
    session = attach(registry, models, engine_id="another")
    # Saving would age what was learned, at every restart anew.
    await keeper.save_changed()
    assert store.saves == 1
    teach(session)
    await keeper.save_changed()
    assert store.saves == 2


async def test_of_two_engines_of_a_profile_the_one_that_knows_more_is_kept(
    keeper: LearnedKeeper, registry: EngineRegistry, store: MemoryStore
) -> None:
    much, little = attach(registry, engine_id="much"), attach(registry, engine_id="little")
    for _ in range(5):
        teach(much)
    teach(little)
    await keeper.save_changed()
    assert store.saves == 1
    assert kept_models(store, much.profile).generation == much.models.generation + 1


async def test_an_engine_whose_models_live_on_loads_nothing(
    keeper: LearnedKeeper, registry: EngineRegistry, store: MemoryStore
) -> None:
    attach(registry)
    assert await keeper.models_for(profile(epoch=2)) is None
    assert store.loads == 0
    assert await keeper.models_for(profile(epoch=2, dtype="bfloat16")) is None
    assert store.loads == 1


async def test_a_broken_profile_is_refused_before_the_store_is_asked(
    keeper: LearnedKeeper, store: MemoryStore
) -> None:
    with pytest.raises(InvalidFieldError):
        await keeper.models_for(profile(candidate_num_steps=()))
    assert store.loads == 0


async def test_a_store_that_hangs_costs_a_cold_start_and_is_named(
    keeper: LearnedKeeper, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "LOAD_TIMEOUT_S", 0.05)
    monkeypatch.setattr(keeper_module, "LAST_SAVE_TIMEOUT_S", 0.05)
    store.hurry.clear()
    with capture_logs() as log:
        assert await keeper.models_for(profile()) is None
        await keeper.stop()
    store.hurry.set()
    said = [(line["event"], line["reason"]) for line in log]
    assert said == [
        ("learned_state_not_used", "the store took over 0.05 s"),
        ("learned_state_not_saved", "not done within 0.05 s"),
    ]
    assert keeper.errors_by_operation == {"load": 1, "save": 1}


async def test_a_failing_store_is_warned_of_once_and_tried_again(
    keeper: LearnedKeeper, registry: EngineRegistry, store: MemoryStore
) -> None:
    session = attach(registry)
    store.failing = True
    with capture_logs() as log:
        for _ in range(3):
            teach(session)
            await keeper.save_changed()
        store.failing = False
        await keeper.save_changed()
    warned = [line for line in log if line["log_level"] != "debug"]
    assert [line["event"] for line in warned] == ["learned_state_not_saved", "learned_state_saved_again"]
    assert warned[0]["reason"] == "the disk is full"
    assert store.saves == 1
    assert KEY in store.kept
    assert keeper.errors_by_operation == {"save": 3}
    assert keeper.saves_total == 1


async def test_a_store_that_cannot_be_read_is_said_once_and_counted_each_time(
    keeper: LearnedKeeper, store: MemoryStore
) -> None:
    with capture_logs() as log:
        for outage in range(2):
            store.failing = True
            for number in range(5):
                assert await keeper.models_for(profile(engine_id=f"engine-{number}")) is None
            store.failing = False
            assert await keeper.models_for(profile(engine_id=f"engine-{outage}")) is None
    said = [line["reason"] for line in log]
    assert said == ["the disk is full", "nothing is kept for engines of this profile"] * 2
    assert keeper.errors_by_operation == {"load": 10}


async def test_kept_state_that_does_not_fit_is_counted_apart(
    keeper: LearnedKeeper, store: MemoryStore
) -> None:
    store.kept[KEY] = b"nothing of ours"
    assert await keeper.models_for(profile()) is None
    assert keeper.refused_total == 1
    assert not keeper.errors_by_operation


async def test_the_end_saves_and_closes(
    keeper: LearnedKeeper, registry: EngineRegistry, store: MemoryStore
) -> None:
    keeper.start()
    teach(attach(registry))
    await keeper.stop()
    assert store.saves == 1
    assert store.closed
    # A service that is stopped again has nothing left to do.
    await keeper.stop()


async def test_without_a_store_nothing_happens(registry: EngineRegistry) -> None:
    keeper = LearnedKeeper(None, registry, save_interval_s=1.0)
    keeper.start()
    teach(attach(registry))
    await keeper.save_changed()
    assert await keeper.models_for(profile(engine_id="another")) is None
    await keeper.stop()
