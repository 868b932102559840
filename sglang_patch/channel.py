"""Channels to the service: which address is next, how it is spoken to, whether it can be reached.

Several addresses are walked here, in an order of the engine's own, and not given to
gRPC as one target: its ``unix:`` and ``ipv4:`` targets take one kind of address each,
and one list may name both. Behind an entry that is a name, gRPC does what it is good
at: it resolves the name anew for every stream and picks one of its addresses at random,
so that engines spread over the replicas.
"""

from __future__ import annotations

import json
import queue
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc

from sglang_patch.addresses import TlsFiles

MAX_ANSWER_BYTES: Final = 16 * 1024
# A service that is there is reached in far less; a host that swallows packets must not hold up the next.
CONNECT_TIMEOUT_S: Final = 1.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.enable_retries", 0),
    # Ours is the back-off that counts; gRPC's own must not be slower.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Streams of engines on one host must not share a connection's fate.
    ("grpc.use_local_subchannel_pool", 1),
    # Heartbeats see a dead peer first. This is for a stream on which nothing is asked: the shortest
    # interval that a server allows by default, and a limit on data that is never acknowledged.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}),
    ),
)


class Addresses:
    """The service's addresses, walked in an order of this engine's own."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = random.sample(addresses, len(addresses))
        self._at = 0

    @property
    def current(self) -> str:
        return self._addresses[self._at]

    def advance(self) -> bool:
        """On to the next; returns whether every address has had its turn."""
        self._at = (self._at + 1) % len(self._addresses)
        return self._at == 0


def open_channel(address: str, tls: TlsFiles | None) -> grpc.Channel:
    """A channel to one address. Certificates are read here, so a new stream takes renewed ones.

    Raises:
        OSError: a certificate file cannot be read.
    """
    if tls is None or address.startswith("unix:"):
        return grpc.insecure_channel(address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=Path(tls.ca).read_bytes(),
        private_key=Path(tls.key).read_bytes(),
        certificate_chain=Path(tls.certificate).read_bytes(),
    )
    return grpc.secure_channel(address, credentials, options=_OPTIONS)


def reached(channel: grpc.Channel) -> bool:
    """Whether the channel connects in time; no longer than it takes to know.

    gRPC's own ``channel_ready_future`` measures its timeout by the wall clock.
    """
    outcome: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def changed(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            outcome.put(True)
        elif state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            outcome.put(False)

    channel.subscribe(changed, try_to_connect=True)
    try:
        return outcome.get(timeout=CONNECT_TIMEOUT_S)
    except queue.Empty:
        return False
    finally:
        channel.unsubscribe(changed)
