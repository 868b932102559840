"""The engine's end of the decision stream: one thread of the agent, one bidirectional call.

Everything that can wait, fail or be hostile happens here. Two threads of the agent meet
in a link: its own reads the stream, the agent's main thread passes asks on and ticks.
What they share is the conversation, under one lock.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any, Final

import grpc

from sglang_patch.addresses import TlsFiles
from sglang_patch.board import Ask, Board
from sglang_patch.channel import Addresses, open_channel, reached
from sglang_patch.clock import Clock
from sglang_patch.conversation import Conversation, Reader
from sglang_patch.heartbeat import Beat
from sglang_patch.outbox import Outbox
from turbospec.v1.control_pb2 import DecideResponse, EngineProfile
from turbospec.v1.control_pb2_grpc import SpeculationControlServiceStub

__all__ = ["Link", "Reader"]

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 0.05
LAST_BACKOFF_S: Final = 1.0
# A stream that ends sooner after its first answer has proven nothing: the back-off goes on growing.
STEADY_AFTER_NS: Final = 1_000_000_000
TICK_INTERVAL_NS: Final = 5_000_000
# What a peer says goes into the log up to here.
MAX_REASON_CHARACTERS: Final = 200


class Link:
    """Keeps a stream to the service up and the board in step with it."""

    def __init__(
        self,
        *,
        address: str,
        profile: EngineProfile,
        board: Board,
        clock: Clock,
        tls: TlsFiles | None = None,
        step_deadline_us: int = 0,
    ) -> None:
        """``address`` may be several, separated by commas."""
        self._address = address
        self._addresses = Addresses(address.split(","))
        self._tls = tls
        self._profile = profile
        self._candidates = frozenset(profile.candidate_num_steps)
        self._board = board
        self._clock = clock
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turbospec-link", daemon=True)
        self._lock = threading.Lock()
        self._conversation = Conversation(profile=profile, board=board, step_deadline_us=step_deadline_us)
        self._channel: grpc.Channel | None = None
        self._cancel: Callable[[], Any] = _nothing
        # Why we ended the stream ourselves.
        self._gave_up = ""
        self._first_answer_ns: int | None = None
        self._ticked_ns = 0

    @property
    def refused(self) -> dict[str, int]:
        """What was not let through, by cause."""
        return self._board.refusals()

    @property
    def dropped_asks(self) -> int:
        return self._board.lost_asks

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._cancel()

    def channel(self) -> grpc.Channel | None:
        """The channel of the stream at hand. Step records go the same way: a service learns only from
        engines whose stream it holds, and behind a name only this channel knows which one that is."""
        return self._channel

    def failed(self) -> None:
        """Step records do not get through; whether the stream does, its own heartbeat finds out."""

    # -- the agent's main thread ---------------------------------------------

    def ask(self, ask: Ask) -> int:
        """Pass an ask on, if it is needed; never blocks. Returns how many more steps need none."""
        with self._lock:
            return self._conversation.ask(ask, self._clock.monotonic_ns())

    def tick(self) -> None:
        """Called often; cheap."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._ticked_ns < TICK_INTERVAL_NS:
            return
        self._ticked_ns = now_ns
        with self._lock:
            beat = self._conversation.beat(now_ns)
        if beat is Beat.GIVE_UP:
            self._gave_up = "no usable answer in time"
            self._cancel()

    # -- the link's thread ---------------------------------------------------

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        told = False
        while not self._closing.is_set():
            self._first_answer_ns = None
            address = self._addresses.current
            try:
                reason = self._stream_once(address)
            except Exception as error:
                # Whatever it is, it must not end the thread: nobody would ever connect again.
                logger.exception("turbospec: the link failed")
                reason = repr(error)
            if self._closing.is_set():
                return
            if self._was_steady():
                backoff_s, told = FIRST_BACKOFF_S, False
            if not told:
                logger.warning("turbospec: no control service at %s (%s); length 0", address, reason)
                told = True
            everybody_had_a_turn = self._addresses.advance()
            # Full jitter: engines that lost the same service must not return as one.
            self._closing.wait(random.uniform(0, backoff_s))
            if everybody_had_a_turn:
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)

    def _was_steady(self) -> bool:
        since_ns = self._first_answer_ns
        return since_ns is not None and self._clock.monotonic_ns() - since_ns >= STEADY_AFTER_NS

    def _stream_once(self, address: str) -> str:
        """Run one stream to its end. Returns why it ended."""
        try:
            channel = open_channel(address, self._tls)
        except OSError as error:
            return f"cannot read {error.filename}: {error.strerror}"
        outbox = Outbox(self._profile)
        with channel:
            if not reached(channel):
                return "cannot connect"
            try:
                self._gave_up = ""
                call = SpeculationControlServiceStub(channel).Decide(outbox.requests())
                self._open(channel, call.cancel, outbox)
                self._read(call, address)
                return self._gave_up or "stream closed by the service"
            except grpc.RpcError as error:
                return self._gave_up or _reason(error)
            finally:
                self._lose(outbox)

    def _open(self, channel: grpc.Channel, cancel: Callable[[], Any], outbox: Outbox) -> None:
        with self._lock:
            self._channel, self._cancel = channel, cancel
            self._conversation.opened(outbox, self._clock.monotonic_ns())
        if self._closing.is_set():
            cancel()

    def _lose(self, outbox: Outbox) -> None:
        with self._lock:
            self._channel, self._cancel = None, _nothing
            self._conversation.lost()
        # Ends the requests of this stream, whose thread may be waiting for one.
        outbox.close()

    def _read(self, call: Any, address: str) -> None:
        reader = Reader(self._profile.epoch, self._candidates)
        for answer in call:
            if self._first_answer_ns is None:
                logger.info("turbospec: controlled by %s", address)
                self._first_answer_ns = self._clock.monotonic_ns()
            if not self.accept(reader, answer):
                self._gave_up = "far more answers than asks"
                call.cancel()
                return

    def accept(self, reader: Reader, answer: DecideResponse) -> bool:
        """Post the answer as a lease, or refuse and count it. Returns whether the stream may go on."""
        with self._lock:
            return self._conversation.accept(reader, answer, self._clock.monotonic_ns())


def _nothing() -> None:
    """There is no call to cancel."""


def _reason(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.Call):
        text = f"{error.code().name}: {error.details()}"
        # A peer's words: no more of them than a line takes, and nothing that a terminal would act on.
        return "".join(c if c.isprintable() else " " for c in text[:MAX_REASON_CHARACTERS])
    return str(error)
