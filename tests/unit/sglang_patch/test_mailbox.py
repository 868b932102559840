"""A step takes a valid lease, waits one deadline at most, and otherwise does not speculate."""

import threading
import time
from typing import Any

from sglang_patch.lease import Lease
from sglang_patch.mailbox import DEADLINE, DISCONNECTED, OVERDUE, Decision, Mailbox
from turbospec.v1.control_pb2 import MODE_ENFORCE, MODE_OFF, MODE_SHADOW
from turbospec.v1.telemetry import SOURCE_FALLBACK, SOURCE_LAUNCH_LENGTH, SOURCE_LEASE

LAUNCH = 5


class HandClock:
    def __init__(self) -> None:
        self.now_ns = 1_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ns(self) -> int:
        return self.now_ns


def lease(step: int, *, length: int = 3, **changes: Any) -> Lease:
    fields = {
        "decision_id": step,
        "model_generation": 1,
        "first_step": step,
        "last_step": step + 1,
        "expires_ns": 1_000_000,
        "mode": MODE_ENFORCE,
        "canary_percent": 0,
        "max_batch_sizes": (8,),
        "num_steps": (length,),
    }
    return Lease(**{**fields, **changes})


def mailbox(deadline_us: int = 0, *, obey: bool = True) -> tuple[Mailbox, HandClock]:
    clock = HandClock()
    return Mailbox(launch_num_steps=LAUNCH, step_deadline_us=deadline_us, obey=obey, clock=clock), clock


def take(box: Mailbox, step_index: int, batch_size: int = 4, now_ns: int = 1_000) -> Decision:
    """What a step gets, the way StepControl asks for it."""
    return box.at_hand(step_index, batch_size, now_ns) or box.wait(step_index, batch_size, now_ns)


def test_a_valid_lease_is_used_for_its_steps_and_no_longer() -> None:
    box, _ = mailbox()
    box.connected()
    box.post(lease(10))
    assert take(box, 10) == Decision(3, SOURCE_LEASE, "", 10)
    assert take(box, 11).num_steps == 3
    assert take(box, 12) == Decision(0, SOURCE_FALLBACK, OVERDUE)


def test_a_lease_ends_with_its_time() -> None:
    box, _ = mailbox()
    box.connected()
    box.post(lease(10))
    assert take(box, 10, now_ns=999_999).source == SOURCE_LEASE
    assert take(box, 10, now_ns=1_000_000).source == SOURCE_FALLBACK


def test_a_lost_link_takes_its_lease_along() -> None:
    box, _ = mailbox()
    box.connected()
    box.post(lease(10))
    box.disconnected()
    assert take(box, 10) == Decision(0, SOURCE_FALLBACK, DISCONNECTED)


def test_beyond_the_last_tier_there_is_no_speculation() -> None:
    box, _ = mailbox()
    box.connected()
    box.post(lease(10))
    assert take(box, 10, batch_size=9) == Decision(0, SOURCE_LEASE, "", 10)


def test_off_and_shadow_hold_the_launch_length() -> None:
    box, _ = mailbox()
    box.connected()
    box.post(lease(10, mode=MODE_OFF, max_batch_sizes=(), num_steps=()))
    assert take(box, 10) == Decision(LAUNCH, SOURCE_LAUNCH_LENGTH, "", 10)
    box.post(lease(11, mode=MODE_SHADOW))
    assert take(box, 11) == Decision(LAUNCH, SOURCE_LAUNCH_LENGTH, "", 11, 3)


def test_an_engine_told_not_to_obey_never_falls_back() -> None:
    box, _ = mailbox(deadline_us=50_000, obey=False)
    assert take(box, 1) == Decision(LAUNCH, SOURCE_LAUNCH_LENGTH)
    box.connected()
    box.post(lease(2))
    assert take(box, 2) == Decision(LAUNCH, SOURCE_LAUNCH_LENGTH, "", 2, 3)


def real_time_mailbox(deadline_us: int) -> Mailbox:
    class RealClock:
        monotonic_ns = staticmethod(time.monotonic_ns)
        unix_ns = staticmethod(time.time_ns)

    box = Mailbox(launch_num_steps=LAUNCH, step_deadline_us=deadline_us, obey=True, clock=RealClock())
    box.connected()
    return box


def take_now(box: Mailbox, step_index: int) -> Decision:
    return take(box, step_index, now_ns=time.monotonic_ns())


def test_one_deadline_is_the_price_of_a_silent_service() -> None:
    box = real_time_mailbox(deadline_us=2_000)
    first = take_now(box, 1)
    assert (first.source, first.reason) == (SOURCE_FALLBACK, DEADLINE)
    assert first.wait_ns > 0
    assert [take_now(box, step) for step in (2, 3)] == [
        Decision(0, SOURCE_FALLBACK, OVERDUE) for _ in range(2)
    ]


def test_an_answer_within_the_deadline_is_used() -> None:
    box = real_time_mailbox(deadline_us=10_000_000)
    ready = lease(1, expires_ns=time.monotonic_ns() + 60_000_000_000)
    threading.Timer(0.02, box.post, [ready]).start()
    decision = take_now(box, 1)
    assert (decision.num_steps, decision.source) == (3, SOURCE_LEASE)
    assert decision.wait_ns > 0


def test_a_service_that_is_always_late_costs_nothing_more_until_it_is_in_time_again() -> None:
    box = real_time_mailbox(deadline_us=1_000)
    far = time.monotonic_ns() + 60_000_000_000
    assert take_now(box, 1).reason == DEADLINE
    for step in range(2, 6):
        box.post(lease(step - 1, last_step=step - 1, expires_ns=far))  # for the step before: late
        assert take_now(box, step) == Decision(0, SOURCE_FALLBACK, OVERDUE)
    box.post(lease(6, expires_ns=far))
    assert take_now(box, 6).source == SOURCE_LEASE
    assert take_now(box, 9).reason == DEADLINE, "in time once: patient again"


def test_a_lost_link_ends_the_wait() -> None:
    box = real_time_mailbox(deadline_us=10_000_000)
    threading.Timer(0.02, box.disconnected).start()
    decision = take_now(box, 1)
    assert (decision.source, decision.reason) == (SOURCE_FALLBACK, DISCONNECTED)
