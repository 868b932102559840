"""Two services, a Redis and an Envoy, all real: one service is killed, the plugin goes on with the other."""

from __future__ import annotations

from pathlib import Path

from benchmarks.service.backends import envoy_config
from benchmarks.service.cores import Cores
from benchmarks.service.replicas import run_replicas
from benchmarks.service.trial import TrialPlan

ENGINES = 3


async def test_a_lost_replica_leaves_every_engine_to_the_other_one(tmp_path: Path) -> None:
    plan = TrialPlan(batch_size=16, warmup_s=1.0, directory=tmp_path, cores=Cores.of_this_machine())
    # A machine that runs other tests beside this one answers late; that is not the subject.
    patient = {"TURBOSPEC_STEP_DEADLINE_US": "100000"}
    found = await run_replicas(plan, ENGINES, seconds=1.5, learn_s=3.0, environment_of_engines=patient)
    assert found.load.steps > 0
    assert not found.load.spans_uncounted
    assert not found.load.streams_broken
    moved = [engine for engine in found.failover if engine.moved]
    assert moved
    for engine in found.failover:
        assert engine.steps_before > 0
        assert engine.outage_s is not None, "under control again at the end"
    for engine in moved:
        assert engine.on_survivor_after_s is not None
        assert engine.model_generation > 1, "what the lost replica knew was in Redis"


def test_the_benchmark_runs_the_documented_configuration() -> None:
    """Only addresses differ, and an admin endpoint is added."""
    config = envoy_config(1, 2, [3, 4])
    (listener,) = config["static_resources"]["listeners"]
    (cluster,) = config["static_resources"]["clusters"]
    assert listener["address"]["socket_address"]["port_value"] == 1
    assert config["admin"]["address"]["socket_address"]["port_value"] == 2
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert [one["endpoint"]["address"]["socket_address"]["port_value"] for one in endpoints] == [3, 4]
    assert cluster["health_checks"]
