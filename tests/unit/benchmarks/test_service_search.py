"""The search finds what a service holds, whatever that is, and asks for little."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.service.search import RESOLUTION, largest_held


@given(capacity=st.integers(0, 600), first=st.integers(1, 64), limit=st.integers(1, 512))
def test_the_largest_number_held_is_found_within_the_resolution(
    capacity: int, first: int, limit: int
) -> None:
    asked: list[int] = []

    async def held(number: int) -> bool:
        asked.append(number)
        return number <= capacity

    found = asyncio.run(largest_held(held, first, limit))
    best = min(capacity, limit)
    assert found <= best
    assert best - found <= max(0, RESOLUTION * best + 1)
    assert all(1 <= number <= limit for number in asked)
    assert len(asked) == len(set(asked)) <= 20
    assert found == 0 or found in asked


def test_everything_is_held_up_to_the_limit() -> None:
    async def held(_number: int) -> bool:
        return True

    assert asyncio.run(largest_held(held, 8, 100)) == 100
