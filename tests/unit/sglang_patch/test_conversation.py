"""What is asked and when, what of the answers is believed, and how the breaker closes again."""

from typing import Any

import pytest

from sglang_patch.board import Ask, Board
from sglang_patch.breaker import CLOSES_AT_ANSWERS, PROBE_INTERVAL_NS, WINDOW_PROBES, Probation
from sglang_patch.conversation import MANY_STEPS, Conversation, Reader
from sglang_patch.heartbeat import GIVE_UP_AFTER_NS, MS, Beat
from sglang_patch.link_state import CONNECTING, DISABLED, FRESH, OPEN, STALE
from sglang_patch.outbox import ANSWERS_AN_ASK, ANSWERS_AT_ONCE, Allowance, Outbox
from turbospec.v1.control_pb2 import MODE_ENFORCE, DecideResponse, EngineProfile, Tier

CANDIDATES = (0, 1, 3, 5)
PROFILE = EngineProfile(epoch=11, candidate_num_steps=CANDIDATES)
DEADLINE_US = 2_000
STEP_NS = 10 * MS


class Sent(Outbox):
    """An outbox on a network that takes everything at once."""

    def __init__(self) -> None:
        super().__init__(PROFILE)
        self.asks: list[Ask] = []

    def put(self, ask: Ask) -> bool:
        self.asks.append(ask)
        return True


class Talk:
    """A conversation on an open stream, with an engine of batch 4 on the other side of the board."""

    def __init__(self) -> None:
        self.board = Board(16, 16)
        self.conversation = Conversation(profile=PROFILE, board=self.board, step_deadline_us=DEADLINE_US)
        self.now_ns = 1_000 * MS
        self.step_index = 0
        self.decisions = 0
        self.open()

    def open(self) -> None:
        self.outbox = Sent()
        self.reader = Reader(11, frozenset(CANDIDATES))
        self.conversation.opened(self.outbox, self.now_ns)

    def step(self, batch_size: int = 4) -> int:
        """The engine begins a step and asks for the next one's length."""
        self.step_index += 1
        self.now_ns += STEP_NS
        ask = (self.step_index + 1, batch_size, 100, 0)
        self.board.ask(*ask)
        return self.conversation.ask(ask, self.now_ns)

    def answer(self, **changes: Any) -> bool:
        self.decisions += 1
        fields: dict[str, Any] = {
            "epoch": 11,
            "step_index": self.outbox.asks[-1][0],
            "decision_id": self.decisions,
            "model_generation": 1,
            "valid_for_steps": 16,
            "valid_for_ms": 1_000,
            "mode": MODE_ENFORCE,
            "tiers": [Tier(max_batch_size=8, num_steps=3)],
        }
        return self.conversation.accept(self.reader, DecideResponse(**{**fields, **changes}), self.now_ns)

    def wait(self, ns: int) -> Beat:
        self.now_ns += ns
        return self.conversation.beat(self.now_ns)

    @property
    def state(self) -> int:
        return self.board.link_state()


def test_a_lease_is_asked_for_once_and_again_as_it_runs_out() -> None:
    talk = Talk()
    assert talk.step() == 0
    talk.answer()
    first_step = talk.outbox.asks[0][0]
    left = [talk.step() for _ in range(15)]
    assert left == [*range(14, 0, -1), 0]
    assert [ask[0] for ask in talk.outbox.asks] == [first_step, first_step + 15]


def test_another_batch_is_asked_for_at_once() -> None:
    talk = Talk()
    talk.step()
    talk.answer()
    assert talk.step(batch_size=5) == 0
    assert talk.outbox.asks[-1][1] == 5


def test_an_idle_engine_keeps_its_lease_without_asking_itself() -> None:
    talk = Talk()
    talk.step()
    talk.answer()
    for _ in range(2_000):
        asked = len(talk.outbox.asks)
        assert talk.wait(5 * MS) is Beat.NOTHING or len(talk.outbox.asks) > asked
        if len(talk.outbox.asks) > asked:
            talk.answer()
        assert talk.state == FRESH
        reading = talk.board.lease(4)
        assert reading is not None
        assert reading[1] <= talk.step_index + 1 <= reading[2]
        assert talk.now_ns < reading[3], "the next step finds a lease"
    assert len(talk.outbox.asks) == pytest.approx(20, abs=2), "two asks a second for ten seconds"


def test_an_engine_that_has_never_asked_is_not_asked_for() -> None:
    talk = Talk()
    assert talk.wait(10_000 * MS) is Beat.NOTHING
    assert talk.outbox.asks == []
    assert talk.state == CONNECTING


def test_silence_makes_the_link_stale_and_then_gives_it_up() -> None:
    talk = Talk()
    talk.step()
    talk.answer(valid_for_ms=100)
    talk.wait(1)
    assert talk.state == FRESH
    talk.step()
    beats = [talk.wait(5 * MS) for _ in range((GIVE_UP_AFTER_NS + 1_000 * MS) // (5 * MS))]
    assert talk.state == STALE
    assert Beat.GIVE_UP in beats
    talk.conversation.lost()
    talk.wait(5 * MS)
    assert talk.state == CONNECTING
    assert talk.board.lease(4) is None


def test_a_new_stream_asks_for_the_step_at_hand_without_waiting_for_the_engine() -> None:
    talk = Talk()
    talk.step()
    talk.answer()
    talk.conversation.lost()
    talk.open()
    talk.wait(5 * MS)
    assert talk.outbox.asks == [(talk.step_index + 1, 4, 100, 0)]


@pytest.mark.parametrize("how", ["kill", "off", "failure"])
def test_a_disabled_engine_asks_nothing_and_is_not_given_up(how: str) -> None:
    talk = Talk()
    talk.step()
    if how == "failure":
        talk.board.fail()
    else:
        talk.board.switch(killed=how == "kill", off=how == "off")
    asked = len(talk.outbox.asks)
    assert talk.step() == MANY_STEPS
    assert {talk.wait(100 * MS) for _ in range(100)} == {Beat.NOTHING}
    assert len(talk.outbox.asks) == asked
    assert talk.state == DISABLED


def test_an_open_breaker_is_probed_seldom_and_closes_after_answers_in_time() -> None:
    talk = Talk()
    talk.step()
    talk.answer()
    talk.board.open_breaker()
    begun_ns, asked = talk.now_ns, len(talk.outbox.asks)
    while talk.board.breaker_open():
        before = len(talk.outbox.asks)
        talk.step()
        talk.wait(1)
        assert talk.state == OPEN
        if len(talk.outbox.asks) > before:
            talk.answer()
        assert talk.now_ns - begun_ns < 1_000 * MS, "a healthy service is obeyed again within a second"
    assert len(talk.outbox.asks) - asked == CLOSES_AT_ANSWERS
    talk.wait(5 * MS)
    assert talk.state == FRESH


@pytest.mark.parametrize("covered", [1, 16])
@pytest.mark.parametrize("fault", ["late", "silent", "refused"])
def test_a_service_that_answers_every_other_probe_is_not_obeyed(fault: str, covered: int) -> None:
    talk = Talk()
    talk.step()
    talk.answer()
    talk.board.open_breaker()
    probes = 0
    for _ in range(40 * WINDOW_PROBES):
        before = len(talk.outbox.asks)
        talk.step()
        talk.wait(1)
        if len(talk.outbox.asks) == before:
            continue
        probes += 1
        if probes % 2:
            talk.answer(valid_for_steps=covered)
        elif fault == "late":
            # Beyond half of the lease's steps and the deadline, though before the next probe.
            talk.now_ns += max(1, covered // 2) * STEP_NS + DEADLINE_US * 1_000 + MS
            talk.answer(valid_for_steps=covered)
        elif fault == "refused":
            talk.answer(epoch=12)
    assert probes > 2 * WINDOW_PROBES
    assert talk.board.breaker_open()


def test_probation_takes_only_answers_to_its_own_asks() -> None:
    probation = Probation()
    assert probation.due(0)
    for turn in range(CLOSES_AT_ANSWERS):
        now_ns = turn * PROBE_INTERVAL_NS
        assert probation.due(now_ns)
        probation.asked(10, now_ns)
        assert not probation.due(now_ns + 1)
        assert not probation.answered(9, now_ns, MS), "for an older step"
        closed = probation.answered(10, now_ns + MS, MS)
        assert closed == (turn == CLOSES_AT_ANSWERS - 1)
        assert not probation.answered(10, now_ns + MS, MS), "counted once"


def test_a_late_answer_among_many_in_time_does_not_begin_it_all_again() -> None:
    """On a busy machine hardly any run of answers is without one."""
    probation = Probation()
    closed = []
    for turn in range(CLOSES_AT_ANSWERS + 1):
        now_ns = turn * PROBE_INTERVAL_NS
        probation.asked(10, now_ns)
        late_ns = 2 * MS if turn == 2 else 0
        closed.append(probation.answered(10, now_ns + late_ns, MS))
    assert closed == [False] * CLOSES_AT_ANSWERS + [True]


def test_refusals_are_counted_by_cause_and_outlive_an_agent() -> None:
    talk = Talk()
    talk.step()
    talk.answer(epoch=10)
    talk.answer(epoch=10)
    talk.answer(step_index=50)
    talk.answer(tiers=[Tier(max_batch_size=8, num_steps=4)])
    successor = Board(16, 16, talk.board.descriptor)
    assert successor.refusals() == {"wrong_epoch": 2, "future_step": 1, "unknown_length": 1}


def test_a_flood_ends_the_stream() -> None:
    talk = Talk()
    talk.step()
    answers = 0
    while talk.answer():
        answers += 1
        assert answers < 10 * ANSWERS_AT_ONCE
    assert talk.board.refusals()["flood"] == 1


def test_duplicated_answers_are_no_flood() -> None:
    allowance = Allowance(0)
    for ask in range(10 * ANSWERS_AT_ONCE):
        allowance.asked()
        for _ in range(ANSWERS_AN_ASK):
            assert allowance.answered(ask * MS)


def test_a_peer_that_does_not_read_holds_up_one_ask_and_the_rest_is_counted() -> None:
    board = Board(16, 16)
    conversation = Conversation(profile=PROFILE, board=board, step_deadline_us=0)
    outbox = Outbox(PROFILE)
    conversation.opened(outbox, 0)
    for step in range(1, 101):
        conversation.ask((step, 4, 100, 0), step * MS)
    assert board.lost_asks == 99
    requests = outbox.requests()
    assert next(requests).WhichOneof("body") == "profile"
    assert next(requests).step.step_index == 100, "the newest"
    outbox.close()
    assert list(requests) == []
