"""Windows of a load that goes on from turn to turn: every chunk counts in one of them, or in none."""

from benchmarks.results import RequestRecord
from benchmarks.turns import cut, shuffled


def request(chunk_s: list[float], *, complete: bool = True) -> RequestRecord:
    return RequestRecord(
        prompt_index=0,
        max_tokens=8,
        client=0,
        sent_s=chunk_s[0] - 0.5,
        chunk_s=chunk_s,
        chunk_tokens=list(range(1, len(chunk_s) + 1)),
        complete=complete,
        output_digest="d" if complete else None,
        verify_steps=3 if complete else None,
        accepted_drafts=2 if complete else None,
    )


def test_a_request_over_three_windows_is_counted_once_and_complete_in_the_last() -> None:
    whole = request([1.0, 2.0, 3.0, 4.0, 5.0])
    parts = [cut([whole], start_s, start_s + 2.0)[0] for start_s in (0.0, 2.0, 4.0)]
    assert [part.chunk_tokens for part in parts] == [[1], [2, 3], [4, 5]]
    assert [part.starts_before for part in parts] == [False, True, True]
    assert [part.complete for part in parts] == [False, False, True]
    assert [part.output_digest for part in parts] == [None, None, "d"]
    assert [part.verify_steps for part in parts] == [None, None, 3]


def test_what_arrives_between_the_windows_counts_nowhere() -> None:
    (part,) = cut([request([1.0, 2.0, 3.0])], 1.5, 2.5)
    assert (part.chunk_s, part.chunk_tokens, part.complete) == ([2.0], [2], False)
    assert cut([request([1.0, 2.0])], 5.0, 6.0) == []


def test_an_answer_that_goes_on_is_not_complete() -> None:
    (part,) = cut([request([1.0, 2.0], complete=False)], 0.0, 3.0)
    assert not part.complete


def test_the_order_of_turns_is_fixed_by_the_seed_and_differs_between_rounds() -> None:
    players = list("abcdef")
    orders = [[name for _, name in shuffled(players, f"0/{number}")] for number in range(5)]
    assert orders == [[name for _, name in shuffled(players, f"0/{number}")] for number in range(5)]
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == players for order in orders)
