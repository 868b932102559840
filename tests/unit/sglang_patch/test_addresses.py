"""Addresses are understood or refused, and what leaves the machine in plain text is known."""

import pytest

from sglang_patch.addresses import MAX_ADDRESSES, is_plain_remote, parse_address, parse_addresses
from sglang_patch.channel import Addresses


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("unix:/run/control.sock", False),
        ("127.0.0.1:7031", False),
        ("127.8.9.10:7031", False),
        ("localhost:7031", False),
        ("[::1]:7031", False),
        ("dns:///localhost:7031", False),
        ("10.0.0.7:7031", True),
        ("0.0.0.0:7031", True),
        ("[2001:db8::1]:7031", True),
        ("control.example:7031", True),
        ("dns:///control.example:7031", True),
        # Not loopback, whatever the name suggests.
        ("localhost.example:7031", True),
    ],
)
def test_an_address_is_taken_as_written(text: str, remote: bool) -> None:
    assert parse_address(text) == text
    assert is_plain_remote(text) is remote


@pytest.mark.parametrize(
    "text",
    ["", "unix:relative", "host", "host:", ":1", "host:0", "host:65536", "host:x", "http://host:1", "dns://8.8.8.8/host:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (its text is the caller's to say)
        parse_address(text)


def test_several_addresses() -> None:
    assert parse_addresses("unix:/a, host:1 ,dns:///b:2") == "unix:/a,host:1,dns:///b:2"
    for text in ("a:1,", "a:1,a:1", ",".join(f"a:{port}" for port in range(1, MAX_ADDRESSES + 2))):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_addresses(text)


def test_every_address_has_its_turn_and_engines_begin_with_different_ones() -> None:
    listed = [f"host:{port}" for port in range(1, 6)]
    first = set()
    for _ in range(200):
        walk = Addresses(listed)
        first.add(walk.current)
        seen = []
        for _ in range(10):
            seen.append(walk.current)
            full_round = walk.advance()
            assert full_round == (len(seen) % 5 == 0)
        assert sorted(seen[:5]) == listed
        assert seen[5:] == seen[:5]
    assert first == set(listed)
