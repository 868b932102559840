"""What engine and service say to each other on a stream, without the network and its threads.

Decides what is asked and when, what of the answers is believed, and what state the link
is in; keeps the board in step. The time is passed in; nothing here blocks.
"""

from __future__ import annotations

import logging
from typing import Final

from sglang_patch.board import Ask, Board
from sglang_patch.breaker import PROBE_INTERVAL_NS, Probation
from sglang_patch.heartbeat import Beat, Heartbeat
from sglang_patch.lease import Fence, Lease, Refused, check
from sglang_patch.link_state import FRESH, LinkState, Seen
from sglang_patch.outbox import Allowance, Outbox
from turbospec.v1.control_pb2 import DecideResponse, EngineProfile
from turbospec.v1.telemetry import LINK_STATES

logger = logging.getLogger(__name__)

NS_PER_US: Final = 1_000
# Returned where no step needs a request.
MANY_STEPS: Final = 64


class Conversation:
    """One engine's side, over as many streams as it takes."""

    def __init__(self, *, profile: EngineProfile, board: Board, step_deadline_us: int) -> None:
        self._board = board
        self._step_deadline_ns = step_deadline_us * NS_PER_US
        # Of the stream at hand.
        self._outbox: Outbox | None = None
        self._heartbeat = Heartbeat()
        self._allowance = Allowance(0)
        self._lease: Lease | None = None
        self._renew_ns = 0
        # Of the engine.
        self._last_ask: Ask = (0, 0, 0, 0)
        self._probation = Probation()
        self._state = LinkState()
        self._ask_seen: tuple[int, int] = (0, 0)
        self._step_interval_ns = 0

    # -- the stream comes and goes -------------------------------------------

    def opened(self, outbox: Outbox, now_ns: int) -> None:
        self._outbox = outbox
        self._heartbeat = Heartbeat()
        self._allowance = Allowance(now_ns)
        self._probation.reset()
        self._board.connect()

    def lost(self) -> None:
        """The stream is gone, and with it every promise it carried."""
        self._outbox = None
        self._lease = None
        self._board.disconnect()

    # -- what is asked -------------------------------------------------------

    def ask(self, ask: Ask, now_ns: int) -> int:
        """The engine has asked: pass it on, unless the lease in force covers the step, nobody wants one,
        or the breaker is open and only probes go out.

        Returns how many more steps need no request.
        """
        self._time_steps(ask[0], now_ns)
        if self._outbox is None or self._board.disabled() or self._board.breaker_open():
            return MANY_STEPS
        left = self._steps_left(ask, now_ns)
        if left > 0:
            return left
        self._send(self._outbox, ask, now_ns)
        return 0

    def beat(self, now_ns: int) -> Beat:
        """What time alone brings about: heartbeats, probes, another state. To give up is left to the link."""
        beat = Beat.NOTHING
        if self._outbox is not None and self._board.ask_sequence:
            beat = self._pulse(self._outbox, now_ns)
        self._update_state(now_ns)
        return beat

    def _pulse(self, outbox: Outbox, now_ns: int) -> Beat:
        if self._board.disabled():
            self._heartbeat.pause()
            return Beat.NOTHING
        beat = self._heartbeat.beat(now_ns)
        if self._board.breaker_open():
            if beat is not Beat.GIVE_UP and self._probation.due(now_ns):
                ask = self._board.newest_ask()
                self._probation.asked(ask[0], now_ns)
                self._send(outbox, ask, now_ns)
        elif beat is Beat.ASK:
            self._send(outbox, self._board.newest_ask(), now_ns)
        return beat

    def _send(self, outbox: Outbox, ask: Ask, now_ns: int) -> None:
        self._last_ask = ask
        self._heartbeat.asked(now_ns)
        self._allowance.asked()
        if not outbox.put(ask):
            self._board.lose_ask()

    def _steps_left(self, ask: Ask, now_ns: int) -> int:
        """Steps the lease covers beyond this one; 0 where its age or another batch calls for a new one."""
        lease = self._lease
        if lease is None or ask[1] != self._last_ask[1] or now_ns >= self._renew_ns:
            return 0
        return lease.last_step - ask[0] if ask[0] >= lease.first_step else 0

    def _time_steps(self, step_index: int, now_ns: int) -> None:
        seen_step, seen_ns = self._ask_seen
        if step_index > seen_step:
            self._step_interval_ns = (now_ns - seen_ns) // (step_index - seen_step)
        self._ask_seen = step_index, now_ns

    # -- what is answered ----------------------------------------------------

    def accept(self, reader: Reader, answer: DecideResponse, now_ns: int) -> bool:
        """Post the answer as a lease, or refuse and count it. Returns whether the stream may go on."""
        if not self._allowance.answered(now_ns):
            self._refuse("flood")
            return False
        try:
            lease = check(answer, reader.fence(self._last_ask[0]), now_ns)
        except Refused as refusal:
            self._refuse(refusal.cause)
            return True
        reader.saw(answer)
        self._board.post(lease)
        self._lease = lease
        valid_for_ns = lease.expires_ns - now_ns
        # Renewed at half of its time: an engine whose steps are slow must not find it expired.
        self._renew_ns = now_ns + valid_for_ns // 2
        self._heartbeat.answered(now_ns, valid_for_ns)
        budget_ns = self._budget_ns(lease.last_step - lease.first_step + 1)
        if self._probation.answered(lease.first_step, now_ns, budget_ns):
            self._board.close_breaker()
            self._probation.reset()
        return True

    def _budget_ns(self, covered_steps: int) -> int:
        """How late an answer may be so that a closed breaker stays closed. A step can wait for its answer as
        long as the step before it and the deadline; a longer lease may miss half of its steps."""
        steps_ns = self._step_interval_ns * max(1, covered_steps // 2)
        return min(steps_ns, PROBE_INTERVAL_NS) + self._step_deadline_ns

    def _refuse(self, cause: str) -> None:
        if cause not in self._board.refusals():
            logger.warning("turbospec: refused a lease: %s", cause)
        self._board.refuse(cause)

    # -- what an operator sees -----------------------------------------------

    def _update_state(self, now_ns: int) -> None:
        board, before = self._board, self._state.current
        seen = Seen(
            disabled=board.disabled(),
            connected=self._outbox is not None and board.ask_sequence > 0,
            breaker_open=board.breaker_open(),
            holds=self._holds(now_ns),
            late=self._heartbeat.is_late(now_ns),
        )
        if self._state.update(now_ns, seen):
            now = self._state.current
            level = logging.INFO if now == FRESH else logging.WARNING
            logger.log(level, "turbospec: link %s, was %s", LINK_STATES[now], LINK_STATES[before])
        board.tell_state(self._state.current)

    def _holds(self, now_ns: int) -> bool:
        """Whether a lease covers the step now running, which is the one before the newest ask's."""
        lease = self._lease
        if lease is None or now_ns >= lease.expires_ns:
            return False
        return lease.last_step >= self._board.newest_ask()[0] - 1


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
