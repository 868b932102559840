"""Learned state in a Redis that several services share.

The last writer wins, key by key. A key is one kind of engine, its state a few kilobytes that one command
replaces whole: a reader gets one writer's state or another's, never a mixture. What can be lost
is what one service learned since another read the key: where two services hold engines of one kind, the next
engine of that kind starts from either's knowledge, not from both. Both have learned the same machine and the
same models, and each goes on with its own in memory and saves it again at its next interval, so
that nothing is lost to the engines that taught it. A service that learned less may replace one that
learned more; the price is a few steps of exploration, once, by an engine that comes later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from control_service.store.protocol import StoreError
from control_service.store.sqlite import KEYS_MAX

# Of the keys below, not of the state inside. Services of another version use keys of their own.
SCHEMA_VERSION = 1
# One hash slot, so that a cluster serves them in one transaction.
STATES = f"{{turbospec:learned:{SCHEMA_VERSION}}}:states"
SAVED_AT = f"{{turbospec:learned:{SCHEMA_VERSION}}}:saved_at_s"
# An engine that connects waits for a load at most a second, connecting included.
CONNECT_TIMEOUT_S = 0.4
ANSWER_TIMEOUT_S = 0.4

Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class RedisStore:
    """A hash of sealed states, and a sorted set of when each was saved, by which the oldest give way.

    Connects when first used and anew after a failure. `name` stands for the URL in texts: it must hold no
    password. `clock` gives Unix seconds.
    """

    def __init__(self, url: str, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._clock = clock
        self._client: Any = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            # Once more at once: a server that was restarted has closed the connection that is kept.
            retry=Retry(NoBackoff(), 1),
            protocol=2,
        )

    def load(self, key: str) -> bytes | None:
        """See `Store`."""

        def read() -> bytes | None:
            state: bytes | None = self._client.hget(STATES, key)
            return state

        return self._asked(read)

    def save(self, key: str, state: bytes) -> None:
        """See `Store`."""

        def write() -> None:
            with self._client.pipeline(transaction=True) as transaction:
                transaction.hset(STATES, key, state)
                transaction.zadd(SAVED_AT, {key: self._clock()})
                transaction.zrange(SAVED_AT, 0, -KEYS_MAX - 1)
                over = transaction.execute()[-1]
            if over:
                with self._client.pipeline(transaction=True) as transaction:
                    transaction.hdel(STATES, *over)
                    transaction.zrem(SAVED_AT, *over)
                    transaction.execute()

        self._asked(write)

    def close(self) -> None:
        """See `Store`."""
        try:
            self._client.close()
        except (redis.RedisError, OSError) as error:
            _log.warning("learned_store_not_closed", store=self._name, reason=str(error))

    def _asked(self, action: Callable[[], Result]) -> Result:
        try:
            return action()
        except (redis.RedisError, OSError) as error:
            raise StoreError(f"{self._name}: {error}") from error
