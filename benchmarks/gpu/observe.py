"""A controlled engine under load: its length is held, its steps are seen as the service learns them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import aiohttp
import grpc

from benchmarks.servers import ServerRefused, control_session
from benchmarks.workload import Prompt
from turbospec.v1 import admin_pb2, admin_pb2_grpc

CALL_TIMEOUT_S: Final = 5.0
# Ids below this are special tokens in no vocabulary used here, and it is the size of the smallest one.
FIRST_TOKEN_ID: Final = 32


def random_prompts(seed: str, vocabulary_size: int, prompt_tokens: int, max_tokens: int) -> Iterator[Prompt]:
    """Requests of one length without end; no two share a prefix."""
    drawn = random.Random(seed)
    index = 0
    while True:
        ids = drawn.choices(range(FIRST_TOKEN_ID, vocabulary_size), k=prompt_tokens)
        sampling = {"temperature": 0, "max_new_tokens": max_tokens, "ignore_eos": True}
        body = {"input_ids": ids, "sampling_params": sampling, "stream": True}
        yield Prompt(index, "/generate", body, max_tokens)
        index += 1


class Observer:
    """One engine's steps and policy, through the admin service."""

    def __init__(self, address: str, engine_id: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = admin_pb2_grpc.SpeculationAdminServiceStub(self._channel)
        self._engine_id = engine_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def hold(self, num_steps: int) -> None:
        """From now on every step runs this length."""
        await self._stub.SetPolicy(
            admin_pb2.SetPolicyRequest(
                engine_id=self._engine_id, policy="static", parameters={"num_steps": str(num_steps)}
            ),
            timeout=CALL_TIMEOUT_S,
        )

    async def change(self, lengths: Sequence[int], every_s: float) -> None:
        """Another length at random every so often, until cancelled."""
        drawn = random.Random(0)
        while True:
            await self.hold(drawn.choice(lengths))
            await asyncio.sleep(every_s)

    async def steps(self, seconds: float) -> AsyncIterator[admin_pb2.ObservedStep]:
        """As they are learned, for so long. Raises RuntimeError if some were lost on the way."""
        call = self._stub.WatchSteps(admin_pb2.WatchStepsRequest(engine_id=self._engine_id))
        try:
            async with asyncio.timeout(seconds):
                async for message in call:
                    if message.dropped_total:
                        raise RuntimeError(f"{message.dropped_total} observed steps were lost")
                    for step in message.steps:
                        yield step
        except TimeoutError:
            return
        finally:
            call.cancel()

    async def predicted_cells(self) -> dict[tuple[int, int], admin_pb2.StepTimeCell]:
        """What the service's own fit says, by length and batch size."""
        request = admin_pb2.GetEngineModelsRequest(engine_id=self._engine_id)
        models = await self._stub.GetEngineModels(request, timeout=CALL_TIMEOUT_S)
        return {(cell.num_steps, cell.batch_size): cell for cell in models.step_time}


async def cache_tokens(base_url: str) -> int:
    """How many tokens the server's cache holds. Raises ServerRefused if it does not say."""
    async with (
        control_session() as session,
        session.get(base_url + "/server_info", timeout=aiohttp.ClientTimeout(total=30)) as response,
    ):
        if response.status == 200:
            found = (await response.json()).get("max_total_num_tokens")
            if isinstance(found, int):
                return found
        raise ServerRefused(f"{base_url}/server_info answered {response.status} without the cache's size")
