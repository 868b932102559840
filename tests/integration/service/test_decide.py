"""The decision stream over real gRPC: leases, refusals, fencing, takeover, restart."""

from __future__ import annotations

import asyncio
from statistics import median

import grpc
import pytest

from control_service.server.app import ControlService
from control_service.settings import ServiceSettings
from tests.integration.service.synthetic_engine import (
    Physics,
    SyntheticEngine,
    cheap_drafts,
    connected_engine,
    make_profile,
)
from turbospec.v1 import control_pb2, control_pb2_grpc

PHYSICS = Physics(acceptance=0.8, step_seconds=cheap_drafts)


async def refusal(target: str, *messages: control_pb2.DecideRequest) -> tuple[grpc.StatusCode, str]:
    """How a stream of these messages ends."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = control_pb2_grpc.SpeculationControlServiceStub(channel).Decide(iter(messages))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        return caught.value.code(), caught.value.details() or ""


def step(epoch: int = 1, **fields: int) -> control_pb2.DecideRequest:
    values = {"step_index": 1, "batch_size": 1, "context_tokens": 10, **fields}
    return control_pb2.DecideRequest(step=control_pb2.StepRequest(epoch=epoch, **values))


def profile(**changes: object) -> control_pb2.DecideRequest:
    return control_pb2.DecideRequest(profile=make_profile(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [0, 1], ids=["unix", "tcp"])
async def test_leases_answer_their_requests_and_generations_never_decrease(
    place: int, service: ControlService
) -> None:
    target = str(service.addresses[place])
    async with connected_engine(target, make_profile(), PHYSICS) as engine:
        await engine.run(200, batch_size=3)
    assert [lease.step_index for lease in engine.leases] == list(range(1, 201))
    assert [lease.decision_id for lease in engine.leases] == list(range(1, 201))
    generations = [lease.model_generation for lease in engine.leases]
    assert generations == sorted(generations)
    assert generations[-1] > generations[0]
    for lease in engine.leases:
        sizes = [tier.max_batch_size for tier in lease.tiers]
        assert lease.epoch == 1
        assert lease.valid_for_ms == 1_000
        assert lease.mode == control_pb2.MODE_ENFORCE
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == engine.profile.max_running_requests
        assert {tier.num_steps for tier in lease.tiers} <= set(engine.profile.candidate_num_steps)
    # Short while models and choice still change every few steps, long once they are steady.
    held = [lease.valid_for_steps for lease in engine.leases]
    assert max(held[:64]) <= 4
    assert median(held[100:]) == 16


async def test_learns_that_cheap_good_drafts_pay_and_bad_ones_do_not(unix_target: str) -> None:
    async with connected_engine(unix_target, make_profile("good"), PHYSICS) as engine:
        await engine.run(300, batch_size=2)
    assert engine.lengths[-1] == 5
    dear = Physics(acceptance=0.05, step_seconds=lambda batch, length: 0.01 * (1 + 0.4 * length))
    async with connected_engine(unix_target, make_profile("bad"), dear) as engine:
        await engine.run(300, batch_size=2)
    assert engine.lengths[-50:].count(0) >= 40


@pytest.mark.parametrize(
    ("first", "field"),
    [
        (step(), "profile"),
        (control_pb2.DecideRequest(), "profile"),
        (profile(engine_id=""), "profile.engine_id"),
        (profile(epoch=0), "profile.epoch"),
        (profile(candidate_num_steps=[]), "profile.candidate_num_steps"),
        (profile(candidate_num_steps=[1, 2]), "profile.candidate_num_steps"),
        (profile(candidate_num_steps=[0, 3, 3]), "profile.candidate_num_steps"),
        (profile(candidate_num_steps=[0, 5_000]), "profile.candidate_num_steps"),
        (profile(graph_batch_sizes=[8, 4]), "profile.graph_batch_sizes"),
        (profile(max_running_requests=0), "profile.max_running_requests"),
        (profile(launch_num_steps=4), "profile.launch_num_steps"),
        (profile(target_model=""), "profile.target_model"),
        (profile(dtype="x" * 600), "profile.dtype"),
    ],
)
async def test_a_wrong_first_message_is_refused_by_field(
    first: control_pb2.DecideRequest, field: str, unix_target: str, service: ControlService
) -> None:
    code, details = await refusal(unix_target, first)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(f"{field}:")
    assert len(service.registry) == 0


@pytest.mark.parametrize(
    ("second", "field"),
    [
        (profile(), "step"),
        (step(epoch=2), "step.epoch"),
        (step(step_index=0), "step.step_index"),
        (step(batch_size=0), "step.batch_size"),
        (step(batch_size=1 << 20), "step.batch_size"),
        (step(context_tokens=1 << 50), "step.context_tokens"),
    ],
)
async def test_a_wrong_later_message_is_refused_by_field(
    second: control_pb2.DecideRequest, field: str, unix_target: str
) -> None:
    code, details = await refusal(unix_target, profile(), second)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(f"{field}:")


async def test_bytes_that_are_no_message_end_the_stream_with_a_status(unix_target: str) -> None:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        call = channel.stream_stream("/turbospec.v1.SpeculationControlService/Decide")()
        await call.write(b"\xff\xff\xff")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_newer_epoch_takes_over_and_the_older_one_is_fenced(unix_target: str) -> None:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        old = SyntheticEngine(channel, make_profile(epoch=1), PHYSICS)
        await old.introduce()
        await old.run(100, batch_size=1)
        async with connected_engine(unix_target, make_profile(epoch=2), PHYSICS) as new:
            await new.run(20, batch_size=1)
            code, details = await old.end()
        assert code is grpc.StatusCode.ABORTED
        assert "epoch 2" in details
        # What was learned is about the machine, not the epoch: no second cold start.
        assert set(new.lengths) == {5}
        assert new.leases[0].decision_id == 1
        code, details = await refusal(unix_target, profile(epoch=1))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "epoch 2" in details


async def test_another_machine_under_the_same_name_starts_cold(unix_target: str) -> None:
    async with connected_engine(unix_target, make_profile(epoch=1), PHYSICS) as engine:
        await engine.run(100, batch_size=1)
    async with connected_engine(unix_target, make_profile(epoch=2, accelerator="other"), PHYSICS) as engine:
        await engine.run(40, batch_size=1)
    assert set(engine.lengths) == {0, 1, 2, 3, 5}


async def test_the_same_epoch_with_another_profile_is_refused(unix_target: str) -> None:
    async with connected_engine(unix_target, make_profile(), PHYSICS) as engine:
        await engine.run(1, batch_size=1)
        code, _ = await refusal(unix_target, profile(dtype="bfloat16"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_second_stream_of_an_epoch_replaces_the_first(
    unix_target: str, service: ControlService
) -> None:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        first = SyntheticEngine(channel, make_profile(), PHYSICS)
        await first.introduce()
        await first.ask(1)
        async with connected_engine(unix_target, make_profile(), PHYSICS) as second:
            await second.ask(1)
            code, _ = await first.end()
            assert code is grpc.StatusCode.ABORTED
            entry = service.registry.get("engine-a")
            assert entry is not None
            assert entry.connected
    assert not entry.connected


async def test_limits_of_engines_and_streams(unix_target: str) -> None:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        engines = [SyntheticEngine(channel, make_profile(f"engine-{n}"), PHYSICS) for n in range(3)]
        for engine in engines:
            await engine.introduce()
            await engine.ask(1)
        code, _ = await refusal(unix_target, profile(engine_id="one-too-many"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        # A place is free again as soon as an engine has left.
        await engines[0].close()
        async with connected_engine(unix_target, make_profile("newcomer"), PHYSICS) as newcomer:
            await newcomer.ask(1)
        for engine in engines[1:]:
            await engine.close()


async def test_only_the_newest_of_queued_requests_needs_an_answer(
    unix_target: str, service: ControlService
) -> None:
    async with grpc.aio.insecure_channel(unix_target) as channel:
        call = control_pb2_grpc.SpeculationControlServiceStub(channel).Decide()
        await call.write(profile())
        for index in range(1, 201):
            await call.write(step(step_index=index))
        answered = []
        while not answered or answered[-1] < 200:
            answered.append((await call.read()).step_index)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert answered == sorted(set(answered))
    entry = service.registry.get("engine-a")
    assert entry is not None
    assert entry.session.counters.decisions_total == len(answered)


async def test_two_engines_learn_apart(unix_target: str, tcp_target: str) -> None:
    dear = Physics(acceptance=0.05, step_seconds=lambda batch, length: 0.01 * (1 + 0.4 * length))
    async with (
        connected_engine(unix_target, make_profile("a"), PHYSICS) as good,
        connected_engine(tcp_target, make_profile("b"), dear) as bad,
    ):
        await asyncio.gather(good.run(200, batch_size=2), bad.run(200, batch_size=2))
    assert good.lengths[-1] == 5
    assert bad.lengths[-20:].count(0) >= 15


async def test_a_restarted_service_takes_the_engine_on_again(settings: ServiceSettings) -> None:
    target = settings.listen.split(",", maxsplit=1)[0]
    for _ in range(2):
        service = ControlService(settings)
        await service.start()
        async with connected_engine(target, make_profile(), PHYSICS) as engine:
            await engine.run(30, batch_size=1)
        assert len(engine.lengths) == 30
        await service.stop()


async def test_a_new_engine_can_begin_as_a_canary(settings: ServiceSettings) -> None:
    service = ControlService(settings.model_copy(update={"mode": "canary:10"}))
    await service.start()
    async with connected_engine(str(service.addresses[0]), make_profile(), PHYSICS) as engine:
        lease = await engine.ask(1)
    assert (lease.mode, lease.canary_percent) == (control_pb2.MODE_CANARY, 10)
    await service.stop()


async def test_stopping_ends_open_streams_as_unavailable(settings: ServiceSettings) -> None:
    service = ControlService(settings)
    await service.start()
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        engine = SyntheticEngine(channel, make_profile(), PHYSICS)
        await engine.introduce()
        await engine.ask(1)
        await service.stop()
        assert await engine.end() == (grpc.StatusCode.UNAVAILABLE, "the service is stopping")
