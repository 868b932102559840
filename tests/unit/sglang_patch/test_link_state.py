"""The five states of a link, and what it takes to get from one to another."""

from itertools import product

from sglang_patch.link_state import (
    CONNECTING,
    DISABLED,
    FRESH,
    OPEN,
    STALE,
    STALE_AFTER_NS,
    LinkState,
    Seen,
)

UP = Seen(disabled=False, connected=True, breaker_open=False, holds=True, late=False)
WITHOUT_LEASE = UP._replace(holds=False)


def test_a_link_begins_connecting_and_is_fresh_with_its_first_lease() -> None:
    state = LinkState()
    assert state.current == CONNECTING
    assert not state.update(0, UP._replace(connected=False, holds=False))
    assert not state.update(1, WITHOUT_LEASE), "a stream alone is not control"
    assert state.update(2, UP)
    assert state.current == FRESH


def test_stale_takes_a_while_and_a_lease_ends_it() -> None:
    state = LinkState()
    state.update(0, UP)
    for now_ns in (10, STALE_AFTER_NS, STALE_AFTER_NS + 9):
        assert not state.update(now_ns, WITHOUT_LEASE)
    assert state.update(STALE_AFTER_NS + 10, WITHOUT_LEASE)
    assert state.current == STALE
    assert state.update(STALE_AFTER_NS + 11, UP)
    assert state.current == FRESH
    assert not state.update(2 * STALE_AFTER_NS, WITHOUT_LEASE), "counted anew"


def test_a_late_answer_makes_it_stale_at_once() -> None:
    state = LinkState()
    state.update(0, UP)
    assert not state.update(1, UP._replace(late=True)), "the lease still holds"
    assert state.update(2, WITHOUT_LEASE._replace(late=True))
    assert state.current == STALE


def test_a_stream_that_never_answers_is_stale() -> None:
    state = LinkState()
    state.update(0, WITHOUT_LEASE)
    assert state.update(STALE_AFTER_NS, WITHOUT_LEASE)
    assert state.current == STALE


def test_a_breaker_that_has_just_closed_leaves_a_stale_link_until_there_is_a_lease() -> None:
    state = LinkState()
    state.update(0, WITHOUT_LEASE._replace(breaker_open=True))
    assert state.current == OPEN
    state.update(1, WITHOUT_LEASE)
    assert state.current == STALE


def test_what_matters_more_comes_first() -> None:
    for disabled, connected, breaker_open, holds, late in product((False, True), repeat=5):
        state = LinkState()
        state.update(0, Seen(disabled, connected, breaker_open, holds, late))
        if disabled:
            assert state.current == DISABLED
        elif not connected:
            assert state.current == CONNECTING
        elif breaker_open:
            assert state.current == OPEN
        elif holds:
            assert state.current == FRESH
        else:
            assert state.current == (STALE if late else CONNECTING)
