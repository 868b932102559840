"""What one peer may ask for, so that no peer can take the service away from the others."""

from __future__ import annotations

from collections import OrderedDict

REFUSALS_LOGGED_PER_S = 1.0
REFUSALS_LOGGED_AT_ONCE = 10


class TokenBucket:
    """Lets `per_s` events a second pass on average, and at most `burst` at once.

    >>> bucket = TokenBucket(per_s=2.0, burst=3, now_s=0.0)
    >>> bucket.take(0.0, wanted=5), bucket.take(0.5, wanted=5)
    (3, 1)
    """

    __slots__ = ("_burst", "_per_s", "_seen_s", "_tokens")

    def __init__(self, *, per_s: float, burst: float, now_s: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._seen_s = now_s

    def take(self, now_s: float, wanted: int = 1) -> int:
        """How many of `wanted` events may pass at `now_s`, of a monotonic clock."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted


class KeyedBuckets:
    """A bucket for each key; beyond `keys_max` keys the one unused for longest is forgotten."""

    def __init__(self, *, per_s: float, burst: float, keys_max: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now_s: float, wanted: int = 1) -> int:
        """See `TokenBucket.take`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) == self._keys_max:
                self._buckets.popitem(last=False)
            bucket = TokenBucket(per_s=self._per_s, burst=self._burst, now_s=now_s)
            self._buckets[key] = bucket
        self._buckets.move_to_end(key)
        return bucket.take(now_s, wanted)


class LogLimit:
    """Keeps a peer that is refused all the time from filling the log."""

    def __init__(self, now_s: float) -> None:
        self._bucket = TokenBucket(per_s=REFUSALS_LOGGED_PER_S, burst=REFUSALS_LOGGED_AT_ONCE, now_s=now_s)
        self._suppressed = 0

    def due(self, now_s: float) -> dict[str, int] | None:
        """Fields for the line to be logged, how many were suppressed before it; None: not now."""
        if not self._bucket.take(now_s):
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        return {"suppressed": suppressed} if suppressed else {}
