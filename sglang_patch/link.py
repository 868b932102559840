"""The engine's end of the decision stream: one thread of the agent, one bidirectional call.

Everything that can wait, fail or be hostile happens here. What passes the checks is
posted to the board; what does not is refused and counted.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Final

import grpc

from sglang_patch.board import Ask, Board
from sglang_patch.clock import Clock
from sglang_patch.lease import Fence, Lease, Refused, check
from turbospec.v1.control_pb2 import DecideRequest, DecideResponse, EngineProfile, StepRequest
from turbospec.v1.control_pb2_grpc import SpeculationControlServiceStub

logger = logging.getLogger(__name__)

MAX_QUEUED_REQUESTS: Final = 64
MAX_ANSWER_BYTES: Final = 16 * 1024
FIRST_BACKOFF_S: Final = 0.05
LAST_BACKOFF_S: Final = 2.0

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.enable_retries", 0),
    # Ours is the back-off that counts; gRPC's own must not be slower.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Streams of engines on one host must not share a connection's fate.
    ("grpc.use_local_subchannel_pool", 1),
)


class Link:
    """Keeps a stream to the service up and the board in step with it."""

    def __init__(self, *, address: str, profile: EngineProfile, board: Board, clock: Clock) -> None:
        self._address = address
        self._profile = profile
        self._candidates = frozenset(profile.candidate_num_steps)
        self._board = board
        self._clock = clock
        # One queue a stream, so that no request outlives the stream it was meant for.
        self._requests: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._last_ask: Ask = (0, 0, 0, 0)
        self._lease: Lease | None = None
        self._renew_ns = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turbospec-link", daemon=True)
        # What was not let through, by cause.
        self.refused: Counter[str] = Counter()
        self.dropped_asks = 0

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._requests.put(None)

    def ask(self, ask: Ask) -> int:
        """Queue a request unless the lease in force makes it needless; never blocks.

        Returns how many more steps need no request. Beyond the bound of the queue a
        request is dropped and counted.
        """
        left = self._steps_left(ask)
        if left > 0:
            return left
        if self._requests.qsize() >= MAX_QUEUED_REQUESTS:
            self.dropped_asks += 1
        else:
            self._last_ask = ask
            self._requests.put(ask)
        return 0

    def _steps_left(self, ask: Ask) -> int:
        """Steps the lease covers beyond this one; 0 where its age or another batch calls for a new one."""
        lease = self._lease
        if lease is None or ask[1] != self._last_ask[1] or self._clock.monotonic_ns() >= self._renew_ns:
            return 0
        return lease.last_step - ask[0] if ask[0] >= lease.first_step else 0

    # -- the link's thread ---------------------------------------------------

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        told = False
        while not self._closing.is_set():
            reason, answered = self._stream_once()
            if self._closing.is_set():
                return
            if answered:
                backoff_s, told = FIRST_BACKOFF_S, False
            if not told:
                logger.warning("turbospec: no control service at %s (%s); length 0", self._address, reason)
                told = True
            # Full jitter: engines that lost the same service must not return as one.
            self._closing.wait(random.uniform(0, backoff_s))
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)

    def _stream_once(self) -> tuple[str, bool]:
        """Run one stream to its end. Returns why it ended and whether it ever answered."""
        answered = False
        requests: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        with grpc.insecure_channel(self._address, options=_CHANNEL_OPTIONS) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=LAST_BACKOFF_S)
                call = SpeculationControlServiceStub(channel).Decide(self._outgoing(requests))
                self._requests = requests
                self._board.connect()
                reader = Reader(self._profile.epoch, self._candidates)
                for answer in call:
                    if not answered:
                        logger.info("turbospec: controlled by %s", self._address)
                    answered = True
                    self.accept(reader, answer)
                return "stream closed by the service", answered
            except grpc.FutureTimeoutError:
                return "cannot connect", answered
            except grpc.RpcError as error:
                return _reason(error), answered
            finally:
                self._lease = None
                self._board.disconnect()
                # Ends _outgoing of this stream, whose thread may be waiting for a request.
                requests.put(None)

    def _outgoing(self, requests: queue.SimpleQueue[Ask | None]) -> Iterator[DecideRequest]:
        yield DecideRequest(profile=self._profile)
        while (ask := requests.get()) is not None:
            step_index, batch_size, context_tokens, waiting_requests = ask
            yield DecideRequest(
                step=StepRequest(
                    epoch=self._profile.epoch,
                    step_index=step_index,
                    batch_size=batch_size,
                    context_tokens=context_tokens,
                    waiting_requests=waiting_requests,
                )
            )

    def accept(self, reader: Reader, answer: DecideResponse) -> None:
        """Post the answer as a lease, or refuse and count it."""
        try:
            now_ns = self._clock.monotonic_ns()
            lease = check(answer, reader.fence(self._last_ask[0]), now_ns)
        except Refused as refusal:
            if self.refused[refusal.cause] == 0:
                logger.warning("turbospec: refused a lease: %s", refusal.cause)
            self.refused[refusal.cause] += 1
            return
        reader.saw(answer)
        self._board.post(lease)
        # Renewed at half of its time: an engine whose steps are slow must not find it expired.
        self._renew_ns = now_ns + (lease.expires_ns - now_ns) // 2
        self._lease = lease


class Reader:
    """What one stream has said so far; a new stream starts from nothing."""

    def __init__(self, epoch: int, candidates: frozenset[int]) -> None:
        self._fence = Fence(
            epoch=epoch,
            candidate_num_steps=candidates,
            last_asked_step=0,
            newest_answered_step=0,
            newest_generation=0,
            newest_decision_id=0,
        )

    def fence(self, last_asked_step: int) -> Fence:
        return self._fence._replace(last_asked_step=last_asked_step)

    def saw(self, answer: DecideResponse) -> None:
        self._fence = self._fence._replace(
            newest_answered_step=answer.step_index,
            newest_generation=answer.model_generation,
            newest_decision_id=max(answer.decision_id, self._fence.newest_decision_id),
        )


def _reason(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return str(error)
