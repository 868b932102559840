"""A policy that is set for a while: the one before comes back, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from turbospec.v1 import admin_pb2, admin_pb2_grpc

PHYSICS = Physics(0.6, cheap_drafts)
LONG_MS = 600_000
SOON_MS = 50
TIMEOUT_S = 30.0


class Operator:
    """Sets policies of `engine-a`, and looks."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = admin_pb2_grpc.SpeculationAdminServiceStub(channel)

    async def static(self, num_steps: int, hold_for_ms: int) -> None:
        await self._stub.SetPolicy(
            admin_pb2.SetPolicyRequest(
                engine_id="engine-a",
                policy="static",
                parameters={"num_steps": str(num_steps)},
                hold_for_ms=hold_for_ms,
            )
        )

    async def goodput(self) -> None:
        await self._stub.SetPolicy(admin_pb2.SetPolicyRequest(engine_id="engine-a", policy="goodput"))

    async def status(self) -> admin_pb2.EngineStatus:
        return (await self._stub.ListEngines(admin_pb2.ListEnginesRequest())).engines[0]

    async def policy(self) -> tuple[str, dict[str, str]]:
        status = await self.status()
        return status.policy, dict(status.policy_parameters)

    async def until_no_hold(self) -> tuple[str, dict[str, str]]:
        async with asyncio.timeout(TIMEOUT_S):
            while (await self.status()).policy_hold_left_ms:
                await asyncio.sleep(0.01)
        return await self.policy()


@pytest.fixture
async def engine(unix_target: str) -> AsyncIterator[SyntheticEngine]:
    async with connected_engine(unix_target, make_profile(), PHYSICS) as connected:
        await connected.ask(1)
        yield connected


@pytest.fixture
async def operator(unix_target: str, engine: SyntheticEngine) -> AsyncIterator[Operator]:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        yield Operator(channel)


async def test_the_policy_before_comes_back_and_the_engine_is_told(
    operator: Operator, engine: SyntheticEngine
) -> None:
    await operator.static(2, 0)
    assert (await engine.hear()).tiers[0].num_steps == 2
    await operator.static(5, SOON_MS)
    assert (await engine.hear()).tiers[0].num_steps == 5
    assert (await engine.hear()).tiers[0].num_steps == 2
    assert await operator.policy() == ("static", {"num_steps": "2"})


async def test_while_it_holds_the_time_left_is_shown(operator: Operator) -> None:
    assert (await operator.status()).policy_hold_left_ms == 0
    await operator.static(1, LONG_MS)
    assert 0 < (await operator.status()).policy_hold_left_ms <= LONG_MS


async def test_a_hold_during_a_hold_goes_back_to_what_was_before_both(operator: Operator) -> None:
    await operator.static(2, 0)
    await operator.static(3, LONG_MS)
    await operator.static(5, SOON_MS)
    assert await operator.until_no_hold() == ("static", {"num_steps": "2"})


async def test_a_policy_that_is_set_for_good_ends_the_hold(operator: Operator) -> None:
    await operator.static(3, SOON_MS)
    await operator.goodput()
    assert (await operator.status()).policy_hold_left_ms == 0
    await asyncio.sleep(3 * SOON_MS / 1e3)
    assert await operator.policy() == ("goodput", {})


async def test_a_hold_outlives_a_restart_of_the_engine_and_ends(
    operator: Operator, engine: SyntheticEngine, unix_target: str
) -> None:
    await operator.static(3, LONG_MS)
    await engine.close()
    async with connected_engine(unix_target, make_profile(epoch=2), PHYSICS) as again:
        await again.ask(1)
        assert await operator.policy() == ("static", {"num_steps": "3"})
        await operator.static(3, SOON_MS)
        assert await operator.until_no_hold() == ("goodput", {})


async def test_an_engine_that_came_back_as_another_one_is_left_alone(
    operator: Operator, engine: SyntheticEngine, unix_target: str
) -> None:
    await operator.static(3, SOON_MS)
    await engine.close()
    other = make_profile(epoch=2, candidate_num_steps=[0, 5])
    async with connected_engine(unix_target, other, PHYSICS) as again:
        await again.ask(1)
        assert (await operator.status()).policy_hold_left_ms == 0
        await asyncio.sleep(3 * SOON_MS / 1e3)
        assert await operator.policy() == ("goodput", {})
