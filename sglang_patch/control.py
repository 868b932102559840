"""Control of one scheduler process: what the hooks call, and all they call.

``StepControl`` owns the board, the mailbox, the switches, the recorder and the accept
history, and numbers the decode steps. Its methods run on the step thread: they read and
write words of shared memory. Everything else is done by the agent process, which starts
once SGLang has finished its own start-up, so that nothing of ours can delay it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final

from sglang_patch.accept_history import AcceptHistory
from sglang_patch.agent_process import AgentProcess
from sglang_patch.board import Board
from sglang_patch.clock import Clock, SystemClock
from sglang_patch.config import EngineConfig
from sglang_patch.decision import ERROR, FALLBACK, KILL_SWITCH, Decision
from sglang_patch.mailbox import Mailbox
from sglang_patch.modes import OFF
from sglang_patch.order import Order
from sglang_patch.recorder import StepRecord, StepRecorder
from sglang_patch.switches import Switches
from turbospec.v1.control_pb2 import EngineProfile

logger = logging.getLogger(__name__)

# Beyond any --max-running-requests that a scheduler takes by default.
MAX_BATCH_SIZE: Final = 4096
# What fails so often is not recorded either any more.
LAST_FAILURE: Final = 3

_KILLED: Final = Decision(0, KILL_SWITCH)
_FAILED: Final = Decision(0, FALLBACK, ERROR)


class StepControl:
    """Decides the length of each decode step and records what came of it."""

    def __init__(
        self,
        config: EngineConfig,
        candidates: Sequence[int],
        launch_num_steps: int,
        max_batch_size: int = MAX_BATCH_SIZE,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.candidates = tuple(candidates)
        self.launch_num_steps = launch_num_steps
        # The length in force; the worker's adapter applies it as the step starts.
        self.num_steps = launch_num_steps
        self.failed = False
        # After repeated failures nothing of ours runs on the step thread any more.
        self.silent = False
        # Batch sizes that SGLang captured graphs for; told to the service with the profile.
        self.graph_batch_sizes: tuple[int, ...] = ()
        # Whether host time is phase time, as on a CPU.
        self.times_phases = False
        self.board = Board(config.ring_size, max_batch_size)
        self.recorder = StepRecorder(self.board.push)
        self.accept_history = AcceptHistory()
        self.switches = Switches(
            kill=config.kill_switch,
            kill_file=config.kill_file,
            mode=config.mode,
            mode_file=config.mode_file,
        )
        self._clock: Clock = clock or SystemClock()
        self._mailbox = Mailbox(
            self.board,
            launch_num_steps=launch_num_steps,
            step_deadline_us=config.step_deadline_us,
            mode=self.switches.mode,
            clock=self._clock,
        )
        self._switched()
        self.switches.changed = self._switched
        self._agent: AgentProcess | None = None
        self._step_index = 0

    def start(self, profile: EngineProfile) -> None:
        """Begin to talk to the service. Called once, after SGLang has started."""
        self.switches.start()
        order = Order(
            descriptor=self.board.descriptor,
            ring_size=self.board.ring_size,
            max_batch_size=self.board.max_batch_size,
            control_address=self.config.control_address,
            otlp_address=self.config.otlp_address,
            tls=self.config.tls,
            export_interval_ms=self.config.export_interval_ms,
            step_deadline_us=self.config.step_deadline_us,
            profile=profile,
            scheduler_pid=os.getpid(),
        )
        self._agent = AgentProcess(order, self.board)
        self._agent.start()
        logger.info(
            "turbospec: engine %s, epoch %d, lengths %s, mode %s, control at %s",
            profile.engine_id,
            profile.epoch,
            list(self.candidates),
            self.switches.mode,
            self.config.control_address,
        )

    def close(self) -> None:
        """Returns at once; the agent ends by itself."""
        self.switches.close()
        if self._agent is not None:
            self._agent.close()

    def _switched(self) -> None:
        """The operator's switches have changed; called by the thread that watches them."""
        self._mailbox.set_mode(self.switches.mode)
        self.board.switch(killed=self.switches.killed, off=self.switches.mode == OFF)

    # -- on the step thread --------------------------------------------------

    def begin(
        self, batch_size: int, context_tokens: int, waiting: int, now_ns: int, *, idled: bool
    ) -> StepRecord:
        """A decode step is about to be launched: settle its length, ask for the next one's."""
        self.recorder.end(now_ns, idled=idled)
        self._step_index = step_index = self._step_index + 1
        decision = self._mailbox.at_hand(step_index, batch_size, now_ns)
        if decision is None or self.switches.killed or self.failed:
            decision = self._without_lease(step_index, batch_size, context_tokens, waiting, now_ns)
        self.num_steps = decision.num_steps
        self.board.ask(step_index + 1, batch_size, context_tokens, waiting)
        # The step's own time starts with our work on it: control is part of what it costs.
        record = StepRecord(step_index, batch_size, context_tokens, waiting, decision, now_ns)
        self.recorder.launch(record)
        return record

    def begin_other(
        self, batch_size: int, context_tokens: int, waiting: int, now_ns: int, *, idled: bool
    ) -> None:
        """A prefill is about to be launched: have an answer ready for the decode step that follows it."""
        self.recorder.end(now_ns, idled=idled)
        self.board.ask(self._step_index + 1, batch_size, context_tokens, waiting)

    def processed(
        self, record: StepRecord, num_steps: int, accepted_drafts: Sequence[int], now_ns: int
    ) -> None:
        """The result of the step, which really ran with ``num_steps``, is on the host."""
        self.recorder.processed(record, num_steps, accepted_drafts, now_ns)

    def idle(self) -> None:
        """The engine has nothing to run: the last step is over, whatever comes next."""
        self.accept_history.clear()
        if self.recorder.running is not None:
            self.recorder.end(self._clock.monotonic_ns(), idled=True)
        else:
            # A prefill may have been the last.
            self.recorder.hand_over()

    def fail(self, where: str) -> None:
        """Our own code raised on the step thread: never again in this process, and never into SGLang.

        Steps are still recorded, so that the operator sees why they run at length 0; if that fails
        too, nothing of ours is called any more.
        """
        self.num_steps = 0
        self.board.fail()
        if not self.failed:
            self.failed = True
            logger.exception("turbospec: failed in %s; control is off for this process, length 0", where)
        elif not self.silent and self.board.failures >= LAST_FAILURE:
            self.silent = True
            logger.error("turbospec: failed in %s again; steps are no longer recorded", where)

    def _without_lease(
        self, step_index: int, batch_size: int, context_tokens: int, waiting: int, now_ns: int
    ) -> Decision:
        if self.switches.killed:
            return _KILLED
        if self.failed:
            return _FAILED
        self.board.ask(step_index, batch_size, context_tokens, waiting)
        return self._mailbox.wait(step_index, batch_size, now_ns)
