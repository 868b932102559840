"""The envelope of learned state: what was sealed comes back, all else is refused by field."""

from __future__ import annotations

import hashlib
import json
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_service.store.envelope import STATE_MAX_BYTES, StateRefusedError, seal, unseal

STATE = {"a": [1, 2.5], "b": "c"}


def test_what_was_sealed_comes_back() -> None:
    assert unseal("key", 3, seal("key", 3, STATE)) == STATE


@pytest.mark.parametrize(
    ("key", "version", "said"),
    [("other", 3, "key: 'key' is not allowed; must be 'other'"), ("key", 4, "version: 3 is not allowed")],
)
def test_another_key_or_version_is_refused_by_name(key: str, version: int, said: str) -> None:
    with pytest.raises(StateRefusedError, match=said):
        unseal(key, version, seal("key", 3, STATE))


@given(st.data())
def test_no_flipped_bit_gets_through(data: st.DataObject) -> None:
    sealed = bytearray(seal("key", 3, STATE))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    # A blank of the header may become another blank: that is refused or means the same.
    with suppress(StateRefusedError):
        assert unseal("key", 3, bytes(sealed)) == STATE


@given(st.binary(max_size=200))
def test_anything_else_is_refused_not_raised_through(content: bytes) -> None:
    with pytest.raises(StateRefusedError):
        unseal("key", 3, content)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (zlib.compress(b"[]"), "state: list is not allowed"),
        (zlib.compress(b"nonsense"), "state: is not JSON"),
        (b"not compressed", "state: cannot be decompressed"),
        (zlib.compress(b"{}")[:-3], "state: not complete"),
        (zlib.compress(b" " * (STATE_MAX_BYTES + 1)), "state: not complete"),
    ],
)
def test_a_body_that_fits_its_checksum_is_still_checked(body: bytes, said: str) -> None:
    header = json.loads(seal("key", 3, STATE).partition(b"\n")[0])
    header["sha256"] = hashlib.sha256(body).hexdigest()
    with pytest.raises(StateRefusedError, match=said):
        unseal("key", 3, json.dumps(header).encode() + b"\n" + body)
