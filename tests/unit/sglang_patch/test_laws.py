"""What must hold whatever the service sends, whenever it comes, and whatever the operator does meanwhile."""

from collections import Counter
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sglang_patch.config import EngineConfig
from sglang_patch.control import StepControl
from sglang_patch.conversation import Conversation, Reader
from sglang_patch.decision import FALLBACK, LEASE, REASON_NAMES, SOURCE_NAMES
from sglang_patch.modes import ENFORCE, OFF, SHADOW, EngineMode
from sglang_patch.outbox import Outbox
from tests.unit.sglang_patch.hand_clock import HandClock
from turbospec.v1 import telemetry as names
from turbospec.v1.control_pb2 import (
    MODE_CANARY,
    MODE_ENFORCE,
    MODE_OFF,
    MODE_SHADOW,
    DecideResponse,
    EngineProfile,
    Tier,
)

CANDIDATES = (0, 1, 3, 5)
LAUNCH = 5
EPOCH = 11
MS = 1_000_000
DEADLINE_US = 500


class Promise(NamedTuple):
    """What an answer says at most, by the words of the contract."""

    first_step: int
    last_step: int
    expires_ns: int
    generation: int
    mode: int
    lengths: frozenset[int]


class EngineAndService(RuleBasedStateMachine):
    """A real ``StepControl`` and a real ``Conversation`` share a board; time and network are the test's."""

    @initialize()
    def begin(self) -> None:
        config = EngineConfig.from_env(
            {
                "TURBOSPEC_CONTROL_ADDRESS": "unix:/nowhere.sock",
                "TURBOSPEC_STEP_DEADLINE_US": str(DEADLINE_US),
                "TURBOSPEC_RING_SIZE": "4096",
            }
        )
        assert config is not None
        self.clock = HandClock()
        self.control = StepControl(config, CANDIDATES, LAUNCH, 16, self.clock)
        self.profile = EngineProfile(epoch=EPOCH, candidate_num_steps=CANDIDATES)
        self.conversation = Conversation(
            profile=self.profile, board=self.control.board, step_deadline_us=DEADLINE_US
        )
        self.steps = 0
        self.asked = 0
        self.decision_id = 0
        self.sent: list[DecideResponse] = []
        self.up = False
        self.generation = 0
        self.counted: Counter[str] = Counter()

    # -- the network ---------------------------------------------------------

    @precondition(lambda self: not self.up)
    @rule()
    def connect(self) -> None:
        self.up = True
        self.reader = Reader(EPOCH, frozenset(CANDIDATES))
        self.promises: dict[int, Promise] = {}
        self.generation = 0
        self.conversation.opened(Outbox(self.profile), self.clock.now_ns)

    @precondition(lambda self: self.up)
    @rule()
    def lose(self) -> None:
        self.up = False
        self.conversation.lost()

    @precondition(lambda self: self.up)
    @rule(
        step=st.integers(-3, 2),
        epoch=st.sampled_from([EPOCH, EPOCH, EPOCH, EPOCH - 1]),
        generation=st.integers(0, 3),
        steps=st.integers(0, 4),
        ms=st.integers(0, 30),
        mode=st.sampled_from([(MODE_ENFORCE, 0), (MODE_SHADOW, 0), (MODE_CANARY, 50), (MODE_OFF, 0), (9, 0)]),
        length=st.integers(0, 5),
    )
    def answer(
        self, step: int, epoch: int, generation: int, steps: int, ms: int, mode: tuple[int, int], length: int
    ) -> None:
        self.decision_id += 1
        self.deliver(
            DecideResponse(
                epoch=epoch,
                step_index=max(self.steps + 1 + step, 0),
                decision_id=self.decision_id,
                model_generation=generation,
                valid_for_steps=steps,
                valid_for_ms=ms,
                mode=mode[0],  # type: ignore[arg-type]
                canary_percent=mode[1],
                tiers=[] if mode[0] == MODE_OFF else [Tier(max_batch_size=8, num_steps=length)],
            )
        )

    @precondition(lambda self: self.up and self.sent)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """An answer of this stream or of one before it arrives again."""
        self.deliver(data.draw(st.sampled_from(self.sent[-20:])))

    def deliver(self, answer: DecideResponse) -> None:
        self.sent.append(answer)
        posted = self.conversation._lease
        self.conversation.accept(self.reader, answer, self.clock.now_ns)
        if self.conversation._lease is not posted:
            assert answer.model_generation >= self.generation, "generations never go back"
            self.generation = answer.model_generation
            self.promises[answer.decision_id] = Promise(
                answer.step_index,
                answer.step_index + answer.valid_for_steps - 1,
                self.clock.now_ns + answer.valid_for_ms * MS,
                answer.model_generation,
                answer.mode,
                frozenset(tier.num_steps for tier in answer.tiers) | {0},
            )

    # -- the engine ----------------------------------------------------------

    @rule(batch_size=st.integers(1, 12), count=st.integers(1, 30))
    def step(self, batch_size: int, count: int) -> None:
        for _ in range(count):
            self.one_step(batch_size)

    def one_step(self, batch_size: int) -> None:
        self.steps += 1
        control, begun_ns = self.control, self.clock.now_ns
        record = control.begin(batch_size, 100, 0, begun_ns, idled=False)
        decision = record.decision
        assert record.step_index == self.steps
        assert control.num_steps == decision.num_steps
        if decision.source == LEASE:
            promise = self.promises[decision.decision_id]
            assert self.up, "no lease outlives its stream"
            assert promise.first_step <= self.steps <= promise.last_step
            assert begun_ns < promise.expires_ns
            assert promise.mode in (MODE_ENFORCE, MODE_CANARY)
            assert decision.num_steps in promise.lengths
            assert promise.generation == self.generation, "the newest answer is the one obeyed"
            assert control.switches.mode not in (OFF, SHADOW)
        elif decision.source == FALLBACK:
            assert decision.num_steps == 0
            assert decision.reason
        assert decision.wait_ns <= 2 * DEADLINE_US * 1_000
        self.conversation.ask((self.steps + 1, batch_size, 100, 0), self.clock.now_ns)
        self.clock.now_ns += MS
        record.first_step = record.after_full_accept = [False] * batch_size
        control.processed(record, control.num_steps, [0] * batch_size, self.clock.now_ns)

    @rule(ms=st.integers(1, 400))
    def pass_time(self, ms: int) -> None:
        self.clock.now_ns += ms * MS
        self.conversation.beat(self.clock.now_ns)

    # -- the operator --------------------------------------------------------

    @rule(killed=st.booleans())
    def kill(self, killed: bool) -> None:
        self.control.switches.killed = killed
        self.control.switches.changed()

    @rule(mode=st.sampled_from([ENFORCE, ENFORCE, SHADOW, OFF, EngineMode(MODE_CANARY, 50)]))
    def set_mode(self, mode: EngineMode) -> None:
        self.control.switches.mode = mode
        self.control.switches.changed()

    # -- what must hold ------------------------------------------------------

    @invariant()
    def counters_add_up(self) -> None:
        if not hasattr(self, "control"):
            return
        self.control.recorder.hand_over()
        for record in self.control.board.take(4096):
            self.counted[SOURCE_NAMES[record.decision.source]] += 1
            if record.decision.source == FALLBACK:
                self.counted["fallback: " + REASON_NAMES[record.decision.reason]] += 1
        steps = sum(self.counted[source] for source in names.SOURCES)
        assert steps == max(self.steps - 1, 0), "the last one is still running"
        by_reason = sum(count for key, count in self.counted.items() if key.startswith("fallback: "))
        assert by_reason == self.counted[names.SOURCE_FALLBACK]
        assert not self.control.failed


TestLaws = EngineAndService.TestCase
TestLaws.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
