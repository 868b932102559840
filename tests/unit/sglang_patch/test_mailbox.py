"""A step takes a valid lease, waits one deadline at most, and otherwise does not speculate."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sglang_patch.board import Board
from sglang_patch.breaker import OPENS_AT_MISSES, WINDOW_STEPS
from sglang_patch.decision import (
    BREAKER,
    DEADLINE,
    DISCONNECTED,
    FALLBACK,
    LAUNCH_LENGTH,
    LEASE,
    NO_REASON,
    OVERDUE,
    Decision,
)
from sglang_patch.lease import CANARY_BLOCK_STEPS, Lease, applies
from sglang_patch.link_state import CONNECTING, FRESH, STALE
from sglang_patch.mailbox import Mailbox
from sglang_patch.modes import ENFORCE, OFF, SHADOW, EngineMode
from tests.unit.sglang_patch.hand_clock import HandClock
from turbospec.v1.control_pb2 import MODE_CANARY, MODE_ENFORCE, MODE_OFF, MODE_SHADOW

LAUNCH = 5
DEADLINE_US = 2_000
FAR_NS = 60_000_000_000


def lease(step: int, *, length: int = 3, **changes: Any) -> Lease:
    fields = {
        "decision_id": step,
        "model_generation": 1,
        "first_step": step,
        "last_step": step + 1,
        "expires_ns": FAR_NS,
        "mode": MODE_ENFORCE,
        "canary_percent": 0,
        "max_batch_sizes": (8,),
        "num_steps": (length,),
    }
    return Lease(**{**fields, **changes})


class Step:
    """A mailbox with its board and clock, used as ``StepControl`` uses it."""

    def __init__(self, *, mode: EngineMode = ENFORCE, deadline_us: int = DEADLINE_US) -> None:
        self.board = Board(16, 16)
        self.clock = HandClock()
        self.box = Mailbox(
            self.board, launch_num_steps=LAUNCH, step_deadline_us=deadline_us, mode=mode, clock=self.clock
        )

    def take(self, step_index: int, batch_size: int = 4) -> Decision:
        now_ns = self.clock.now_ns
        return self.box.at_hand(step_index, batch_size, now_ns) or self.box.wait(
            step_index, batch_size, now_ns
        )


def connected(**options: Any) -> Step:
    step = Step(**options)
    step.board.connect()
    step.board.tell_state(FRESH)
    return step


def test_a_valid_lease_is_used_for_its_steps_and_no_longer() -> None:
    step = connected(deadline_us=0)
    step.board.post(lease(10))
    assert step.take(10) == Decision(3, LEASE, NO_REASON, 10)
    assert step.take(11).num_steps == 3
    assert step.take(12) == Decision(0, FALLBACK, OVERDUE)


def test_a_lease_ends_with_its_time() -> None:
    step = connected(deadline_us=0)
    step.board.post(lease(10))
    step.clock.now_ns = FAR_NS - 1
    assert step.take(10).source == LEASE
    step.clock.now_ns = FAR_NS
    assert step.take(10).source == FALLBACK


def test_a_lost_link_takes_its_lease_along_even_if_it_comes_back() -> None:
    step = connected(deadline_us=0)
    step.board.post(lease(10))
    step.board.disconnect()
    assert step.take(10) == Decision(0, FALLBACK, DISCONNECTED)
    step.board.connect()
    assert step.take(10).source == FALLBACK


EVENTS = st.one_of(
    st.tuples(
        st.just("post"),
        st.integers(0, 4),
        st.integers(0, 6),
        st.integers(1, 9),
        st.sampled_from([MODE_ENFORCE, MODE_SHADOW, MODE_OFF, MODE_CANARY]),
    ),
    st.tuples(st.just("mode"), st.sampled_from([ENFORCE, SHADOW, OFF, EngineMode(MODE_CANARY, 50)])),
    st.tuples(st.just("link"), st.booleans()),
    st.tuples(st.just("time"), st.integers(0, 4)),
    st.tuples(st.just("step"), st.sampled_from([1, 4, 9])),
)


@given(st.lists(EVENTS, min_size=5, max_size=60))
def test_what_a_step_remembers_of_the_one_before_changes_no_decision(events: list[tuple[Any, ...]]) -> None:
    """A mailbox that has seen all decides as one that looks at the board for the first time."""
    step = connected()
    mode, index, posted = ENFORCE, 100, 0
    for kind, *values in events:
        if kind == "post":
            ahead, steps, length, served = values
            posted += 1
            step.board.post(
                lease(
                    index + ahead,
                    length=length,
                    decision_id=posted,
                    last_step=index + ahead + steps,
                    expires_ns=step.clock.now_ns + 3,
                    mode=served,
                    canary_percent=50 if served == MODE_CANARY else 0,
                )
            )
        elif kind == "mode":
            (mode,) = values
            step.box.set_mode(mode)
        elif kind == "link":
            step.board.connect() if values[0] else step.board.disconnect()
        elif kind == "time":
            step.clock.now_ns += values[0]
        else:
            index += 1
            anew = Board(16, 16, step.board.descriptor)
            fresh = Mailbox(anew, launch_num_steps=LAUNCH, step_deadline_us=0, mode=mode, clock=step.clock)
            now_ns = step.clock.now_ns
            assert step.box.at_hand(index, values[0], now_ns) == fresh.at_hand(index, values[0], now_ns)


def test_beyond_the_last_tier_there_is_no_speculation() -> None:
    step = connected()
    step.board.post(lease(10))
    assert step.take(10, batch_size=9) == Decision(0, LEASE, NO_REASON, 10)


def test_off_and_shadow_hold_the_launch_length() -> None:
    step = connected()
    step.board.post(lease(10, mode=MODE_OFF, max_batch_sizes=(), num_steps=()))
    assert step.take(10) == Decision(LAUNCH, LAUNCH_LENGTH, NO_REASON, 10)
    step.board.post(lease(11, mode=MODE_SHADOW))
    assert step.take(11) == Decision(LAUNCH, LAUNCH_LENGTH, NO_REASON, 11, 3)


def test_an_engine_told_not_to_obey_never_falls_back_nor_waits() -> None:
    step = Step(mode=SHADOW)
    assert step.take(1) == Decision(LAUNCH, LAUNCH_LENGTH)
    step.board.connect()
    assert step.take(1) == Decision(LAUNCH, LAUNCH_LENGTH)
    step.board.post(lease(2))
    assert step.take(2) == Decision(LAUNCH, LAUNCH_LENGTH, NO_REASON, 2, 3)
    assert step.clock.slept == 0


def test_one_deadline_is_the_price_of_a_silent_service() -> None:
    step = connected()
    first = step.take(1)
    assert (first.source, first.reason) == (FALLBACK, DEADLINE)
    assert DEADLINE_US * 1_000 <= first.wait_ns < 2 * DEADLINE_US * 1_000
    slept = step.clock.slept
    assert [step.take(index) for index in (2, 3)] == [Decision(0, FALLBACK, OVERDUE)] * 2
    assert step.clock.slept == slept


def test_an_answer_within_the_deadline_is_used() -> None:
    step = connected()
    step.clock.events.append((500_000, lambda: step.board.post(lease(1))))
    decision = step.take(1)
    assert (decision.num_steps, decision.source) == (3, LEASE)
    assert 400_000 < decision.wait_ns < 600_000


def test_a_service_that_is_always_late_costs_nothing_more_until_it_is_in_time_again() -> None:
    step = connected()
    assert step.take(1).reason == DEADLINE
    for index in range(2, 6):
        step.board.post(lease(index - 1, last_step=index - 1))  # for the step before: late
        assert step.take(index) == Decision(0, FALLBACK, OVERDUE)
    step.board.post(lease(6))
    assert step.take(6).source == LEASE
    assert step.take(9).reason == DEADLINE, "in time once: patient again"


def test_a_lost_link_ends_the_wait() -> None:
    step = connected()
    step.clock.events.append((100_000, step.board.disconnect))
    decision = step.take(1)
    assert (decision.source, decision.num_steps) == (FALLBACK, 0)
    assert decision.wait_ns < 200_000


def test_the_more_careful_mode_holds() -> None:
    step = connected(mode=OFF)
    step.board.post(lease(10))
    assert step.take(10) == Decision(LAUNCH, LAUNCH_LENGTH, NO_REASON, 10)
    step.box.set_mode(ENFORCE)
    assert step.take(10).source == LEASE
    step.box.set_mode(SHADOW)
    assert step.take(10) == Decision(LAUNCH, LAUNCH_LENGTH, NO_REASON, 10, 3)


def test_an_engine_in_canary_obeys_in_its_share_and_never_waits_outside_it() -> None:
    percent = 30
    step = connected(mode=EngineMode(MODE_CANARY, percent), deadline_us=0)
    obeyed = 0
    for block in range(200):
        index = block * CANARY_BLOCK_STEPS
        ours = applies(MODE_CANARY, percent, index)
        assert step.take(index).source == (FALLBACK if ours else LAUNCH_LENGTH), "without a lease"
        step.board.post(lease(index))
        assert step.take(index).source == (LEASE if ours else LAUNCH_LENGTH)
        # The service's own canary is the smaller: both must say so.
        step.board.post(lease(index, mode=MODE_CANARY, canary_percent=5))
        theirs = applies(MODE_CANARY, 5, index)
        assert step.take(index).source == (LEASE if ours and theirs else LAUNCH_LENGTH)
        obeyed += ours
    assert 30 < obeyed < 90


def test_a_stale_link_costs_not_even_the_first_deadline() -> None:
    step = connected()
    step.board.tell_state(STALE)
    assert step.take(1) == Decision(0, FALLBACK, OVERDUE)
    assert step.clock.slept == 0


def misses(step: Step, count: int, first: int = 1) -> None:
    for index in range(first, first + count):
        step.board.post(lease(index + 1_000))
        assert step.take(index).source == FALLBACK


def test_half_of_the_window_missed_opens_the_breaker() -> None:
    step = connected(deadline_us=0)
    misses(step, OPENS_AT_MISSES - 1)
    assert not step.board.breaker_open()
    misses(step, 1)
    assert step.board.breaker_open()
    step.board.post(lease(100))
    assert step.take(100) == Decision(0, FALLBACK, BREAKER), "answers are not obeyed while it is open"


def test_misses_that_are_long_past_do_not_open_it() -> None:
    step = connected(deadline_us=0)
    misses(step, OPENS_AT_MISSES - 1)
    for index in range(100, 100 + WINDOW_STEPS):
        step.board.post(lease(index))
        assert step.take(index).source == LEASE
    misses(step, OPENS_AT_MISSES - 1, first=200)
    assert not step.board.breaker_open()


def test_a_service_that_answers_every_other_step_is_cut_off() -> None:
    """Every answer in time restores patience: without the breaker each second step would pay a deadline."""
    step = connected()
    for index in range(1, 201):
        if index % 2:
            step.board.post(lease(index, last_step=index))
        step.take(index)
    assert step.board.breaker_open()
    looks_per_deadline = DEADLINE_US / 50
    assert step.clock.slept <= (OPENS_AT_MISSES + 1) * looks_per_deadline
    before = step.clock.slept
    assert {step.take(index).reason for index in range(300, 400)} == {BREAKER}
    assert step.clock.slept == before, "an open breaker never waits"


def test_once_the_agent_closes_it_the_next_step_obeys_again() -> None:
    step = connected(deadline_us=0)
    misses(step, OPENS_AT_MISSES)
    step.board.close_breaker()
    step.board.post(lease(100))
    assert step.take(100).source == LEASE
    misses(step, OPENS_AT_MISSES - 1, first=200)
    assert not step.board.breaker_open(), "it starts with a clean record"


def test_steps_without_a_stream_or_before_its_first_answer_do_not_open_it() -> None:
    step = Step()
    assert {step.take(index).reason for index in range(1, 200)} == {DISCONNECTED}
    step.board.connect()
    step.board.tell_state(CONNECTING)
    misses(step, 200, first=200)
    assert not step.board.breaker_open()


def test_an_engine_that_does_not_obey_holds_its_launch_length_whatever_the_breaker_says() -> None:
    step = connected(deadline_us=0)
    misses(step, OPENS_AT_MISSES)
    step.box.set_mode(SHADOW)
    assert step.take(500) == Decision(LAUNCH, LAUNCH_LENGTH)
