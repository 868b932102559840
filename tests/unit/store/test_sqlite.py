"""The SQLite store on real files: survives, sets damage aside, and says what it cannot do."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from control_service.store.protocol import StoreError
from control_service.store.sqlite import KEYS_MAX, SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "learned.sqlite3"


def reopened(path: Path, key: str = "a") -> bytes | None:
    store = SqliteStore(path)
    try:
        return store.load(key)
    finally:
        store.close()


def saved(path: Path, key: str = "a", state: bytes = b"one") -> None:
    store = SqliteStore(path)
    store.save(key, state)
    store.close()


def test_the_newest_state_of_each_key_survives(path: Path) -> None:
    saved(path, "a", b"one")
    saved(path, "a", b"two")
    saved(path, "b", b"three")
    assert (reopened(path, "a"), reopened(path, "b"), reopened(path, "c")) == (b"two", b"three", None)


def test_a_process_that_is_killed_after_a_save_has_saved(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from control_service.store.sqlite import SqliteStore;"
        "SqliteStore(Path(sys.argv[1])).save('a', b'kept'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert killed.returncode == -9
    assert reopened(path) == b"kept"


def test_only_the_owner_may_read_it(path: Path) -> None:
    store = SqliteStore(path)
    store.save("a", b"one")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for suffix in ("", "-wal", "-shm"):
        assert stat.S_IMODE(Path(f"{path}{suffix}").stat().st_mode) == 0o600
    store.close()


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(when: str, path: Path) -> None:
    saved(path)
    store = SqliteStore(path, clock=lambda: 0.0)
    if when == "while it is open":
        assert store.load("a") == b"one"
        store.close()
    path.write_bytes(b"this is no database at all " * 300)
    assert store.load("a") is None
    store.save("a", b"new")
    assert store.load("a") == b"new"
    store.close()
    aside = path.with_name("learned.sqlite3.corrupt-19700101T000000Z")
    assert aside.read_bytes().startswith(b"this is no database")


def test_damage_inside_the_file_is_found_by_the_read_that_meets_it(path: Path) -> None:
    saved(path, "a", b"x" * 20_000)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    assert reopened(path) is None
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1


def test_a_file_of_another_schema_is_refused_and_left_as_it_is(path: Path) -> None:
    saved(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="schema version 7 is not allowed; must be 1"):
        reopened(path)
    assert path.read_bytes() == before


def test_a_database_of_somebody_else_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="schema version 0"):
        saved(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["/proc/turbospec/learned.sqlite3", "/dev/null/learned.sqlite3"])
def test_a_place_that_cannot_be_written_is_named(place: str) -> None:
    store = SqliteStore(Path(place))
    for _ in range(2):
        with pytest.raises(StoreError, match=place):
            store.save("a", b"one")
    store.close()


def test_a_full_disk_is_an_error_now_and_no_damage_later(path: Path) -> None:
    store = SqliteStore(path)
    store.save("a", b"one")
    # What SQLite says here is what it says of a disk that is full.
    store._connection.execute("PRAGMA max_page_count = 4")  # type: ignore[union-attr]
    with pytest.raises(StoreError, match="full"):
        store.save("a", b"x" * 100_000)
    # The failure closed that connection, and the limit with it: there is room again.
    assert store.load("a") == b"one"
    store.save("a", b"y" * 100_000)
    store.close()
    assert reopened(path) == b"y" * 100_000


def test_a_lock_held_by_another_is_an_error_not_a_wait_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_service.store.sqlite.BUSY_TIMEOUT_S", 0.05)
    saved(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="locked"):
        store.save("a", b"two")
    assert store.load("a") == b"one"
    other.execute("ROLLBACK")
    other.close()
    store.save("a", b"two")
    assert store.load("a") == b"two"
    store.close()


def test_keys_that_were_not_saved_for_longest_give_way(path: Path) -> None:
    now = iter(range(10_000))
    store = SqliteStore(path, clock=lambda: float(next(now)))
    for number in range(KEYS_MAX + 3):
        store.save(f"key-{number}", b"x")
    assert store.load("key-2") is None
    assert store.load("key-3") == b"x"
    store.close()
