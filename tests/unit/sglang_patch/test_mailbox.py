"""A step takes a valid lease, waits one deadline at most, and otherwise does not speculate."""

from collections.abc import Callable
from typing import Any

from sglang_patch.board import Board
from sglang_patch.decision import (
    DEADLINE,
    DISCONNECTED,
    FALLBACK,
    LAUNCH_LENGTH,
    LEASE,
    NO_REASON,
    OVERDUE,
    Decision,
)
from sglang_patch.lease import Lease
from sglang_patch.mailbox import Mailbox
from turbospec.v1.control_pb2 import MODE_ENFORCE, MODE_OFF, MODE_SHADOW

LAUNCH = 5
DEADLINE_US = 2_000
FAR_NS = 60_000_000_000


class HandClock:
    """Time passes only while somebody sleeps; ``events`` happen once their time has come."""

    def __init__(self) -> None:
        self.now_ns = 1_000
        self.slept = 0
        self.events: list[tuple[int, Callable[[], None]]] = []

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        self.now_ns += round(seconds * 1e9)
        for at_ns, event in list(self.events):
            if self.now_ns >= at_ns:
                event()


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

    def __init__(self, *, obey: bool = True, deadline_us: int = DEADLINE_US) -> None:
        self.board = Board(16, 16)
        self.clock = HandClock()
        self.box = Mailbox(
            self.board, launch_num_steps=LAUNCH, step_deadline_us=deadline_us, obey=obey, clock=self.clock
        )

    def take(self, step_index: int, batch_size: int = 4) -> Decision:
        now_ns = self.clock.now_ns
        return self.box.at_hand(step_index, batch_size, now_ns) or self.box.wait(
            step_index, batch_size, now_ns
        )


def connected(**options: Any) -> Step:
    step = Step(**options)
    step.board.connect()
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
    step = Step(obey=False)
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
