"""A peer that has stopped is noticed, an idle one is left in peace."""

from sglang_patch.heartbeat import (
    GIVE_UP_AFTER_NS,
    LONGEST_QUIET_NS,
    MAX_EXPECTED_NS,
    MS,
    REPEAT_AFTER_NS,
    SHORTEST_QUIET_NS,
    Beat,
    Heartbeat,
)

VALID_NS = 1_000 * MS


def test_a_new_stream_asks_at_once() -> None:
    assert Heartbeat().beat(0) is Beat.ASK


def test_an_answered_link_is_quiet_for_half_of_the_lease() -> None:
    heart = Heartbeat()
    heart.asked(0)
    heart.answered(1, VALID_NS)
    assert heart.beat(VALID_NS // 2) is Beat.NOTHING
    assert heart.beat(VALID_NS // 2 + 1) is Beat.ASK


def test_how_quiet_has_bounds() -> None:
    for valid_ns, quiet_ns in ((1 * MS, SHORTEST_QUIET_NS), (60_000 * MS, LONGEST_QUIET_NS)):
        heart = Heartbeat()
        heart.answered(0, valid_ns)
        assert heart.beat(quiet_ns - 1) is Beat.NOTHING
        assert heart.beat(quiet_ns) is Beat.ASK


def test_silence_means_one_more_ask_and_then_the_end() -> None:
    heart = Heartbeat()
    heart.asked(0)
    beats = [heart.beat(now_ns) for now_ns in range(0, GIVE_UP_AFTER_NS + 1, MS)]
    assert beats.count(Beat.ASK) == 1
    assert beats.index(Beat.ASK) == REPEAT_AFTER_NS // MS
    assert beats.index(Beat.GIVE_UP) == GIVE_UP_AFTER_NS // MS


def test_asking_on_does_not_put_the_end_off() -> None:
    heart = Heartbeat()
    for now_ns in range(0, GIVE_UP_AFTER_NS, 10 * MS):
        heart.asked(now_ns)
        assert heart.beat(now_ns) is not Beat.GIVE_UP
    assert heart.beat(GIVE_UP_AFTER_NS) is Beat.GIVE_UP


def test_a_peer_known_to_be_slow_is_given_more_time_within_bounds() -> None:
    heart, now_ns = Heartbeat(), 0
    for _ in range(200):
        heart.asked(now_ns)
        now_ns += 100 * MS
        heart.answered(now_ns, VALID_NS)
    assert 2 * REPEAT_AFTER_NS < heart.late_after_ns <= 8 * 100 * MS
    for _ in range(200):
        heart.asked(now_ns)
        now_ns += 60_000 * MS
        heart.answered(now_ns, VALID_NS)
    assert heart.give_up_after_ns <= 32 * MAX_EXPECTED_NS


def test_nobody_waits_for_an_answer_that_nobody_wants() -> None:
    heart = Heartbeat()
    heart.asked(0)
    heart.pause()
    assert not heart.is_late(GIVE_UP_AFTER_NS)
    assert heart.beat(GIVE_UP_AFTER_NS) is not Beat.GIVE_UP
