"""The largest number that is held: up by doubling, then by halves in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

# Between two numbers closer than this nothing is looked for: a trial says no more.
RESOLUTION = 0.04


async def largest_held(held: Callable[[int], Awaitable[bool]], first: int, limit: int) -> int:
    """At most `limit`, found by asking `held`; 0 if not even one is.

    Takes for granted that whoever holds a number holds every smaller one.
    """
    good, bad = 0, limit + 1
    number = min(first, limit)
    while good < bad - 1 and bad - good > RESOLUTION * bad:
        if await held(number):
            good = number
        else:
            bad = number
        doubled = 2 * number if bad > limit else (good + bad) // 2
        number = max(1, min(doubled, limit))
        if number in (good, bad):
            break
    return good
