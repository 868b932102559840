"""The table by batch size, with vLLM's semantics at the edges."""

from __future__ import annotations

from control_service.core.policies.make import make_policy
from control_service.core.policy import Policy
from tests.unit.control_service.factories import observation, profile, query
from tests.unit.control_service.policies.views import view

# What vLLM makes of [[1, 7, 5], [8, 15, 3], [32, 40, 1], [64, 512, 0]] for every batch size up to 100:
# sizes in a gap (16 to 31, 41 to 63) take the length of the range before it.
VLLM = {size: 5 if size < 8 else 3 if size < 32 else 1 if size < 64 else 0 for size in range(1, 101)}


def made(table: str, max_running_requests: int = 100) -> Policy:
    return make_policy("schedule", {"table": table}, profile(max_running_requests=max_running_requests))


def test_every_batch_size_gets_the_length_of_its_range() -> None:
    policy = made("1:5, 8:3, 32:1, 64:0")
    for size, length in VLLM.items():
        choice = policy.choose(query(1, size), view())
        assert (choice.num_steps, choice.reason) == (length, "schedule")
        assert next(tier.num_steps for tier in choice.tiers if size <= tier.max_batch_size) == length


def test_sizes_beyond_the_table_keep_its_last_length() -> None:
    assert made("1:5,8:3").choose(query(1, 60_000), view()).num_steps == 3


def test_tiers_end_where_the_engine_does_and_neighbours_of_one_length_are_one() -> None:
    assert made("1:5,8:3,32:1,64:0", 40).choose(query(1), view()).tiers == ((7, 5), (31, 3), (40, 1))
    assert made("1:5,4:5,8:0", 8).choose(query(1), view()).tiers == ((7, 5), (8, 0))
    assert made("1:2", 1).choose(query(1), view()).tiers == ((1, 2),)


def test_telemetry_changes_nothing() -> None:
    policy = made("1:5,8:0")
    before = policy.choose(query(1), view())
    for index in range(1, 50):
        policy.observe(observation(index, 5, (0, 0)), view())
    assert policy.choose(query(50), view()) == before
