"""A control service that answers honestly until it is told to lie, in whatever bytes the lie takes.

Answers leave as raw bytes, because some lies have no message: protobuf would not encode them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Final

import grpc

from turbospec.v1.control_pb2 import DESCRIPTOR, MODE_ENFORCE, DecideRequest, DecideResponse, Tier

# What an honest answer says; POISON is a length that only a lie names.
HONEST_LENGTH: Final = 3
POISON: Final = 5
VALID_FOR_STEPS: Final = 4
PAST_MAX: Final = 256

# From an honest answer and the bytes of those before it to what is sent in its place.
Lie = Callable[[DecideResponse, Sequence[bytes]], list[bytes]]

_SERVICE: Final = DESCRIPTOR.services_by_name["SpeculationControlService"].full_name


class HostileService:
    """The decision service alone; ``lie`` may change at any time, None is honesty."""

    def __init__(self) -> None:
        self.lie: Lie | None = None
        self._past: deque[bytes] = deque(maxlen=PAST_MAX)
        self._decisions = 0
        self._server: grpc.Server | None = None

    def start(self, socket: Path) -> str:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        method = grpc.stream_stream_rpc_method_handler(
            self._decide, request_deserializer=DecideRequest.FromString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Decide": method}),)
        )
        address = f"unix:{socket}"
        self._server.add_insecure_port(address)
        self._server.start()
        return address

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=0).wait(5)

    def _decide(self, requests: Iterator[DecideRequest], context: Any) -> Iterator[bytes]:
        for request in requests:
            if request.HasField("profile"):
                continue
            self._decisions += 1
            answer = DecideResponse(
                epoch=request.step.epoch,
                step_index=request.step.step_index,
                decision_id=self._decisions,
                model_generation=1,
                valid_for_steps=VALID_FOR_STEPS,
                valid_for_ms=1000,
                mode=MODE_ENFORCE,
                tiers=[Tier(max_batch_size=16, num_steps=HONEST_LENGTH)],
            )
            lie = self.lie
            if lie is None:
                self._past.append(answer.SerializeToString())
                yield self._past[-1]
            else:
                yield from lie(answer, tuple(self._past))
