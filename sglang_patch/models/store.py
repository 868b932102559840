"""A directory that holds a finished model or does not exist: built once, by one process, all or nothing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "TURBOSPEC_CACHE_DIR"
# Written last into a model's directory. Says what it was made from, so that a new recipe is noticed.
RECIPE_FILE: Final = "turbospec-model.json"

Recipe = Mapping[str, str | int | float]


class ModelError(Exception):
    """A model that cannot be made; the message is for the user."""


def models_directory() -> Path:
    """Where models are kept unless the caller names a place."""
    root = os.environ.get(CACHE_VARIABLE) or "~/.cache/turbospec"
    return Path(root).expanduser() / "models"


def say(line: str) -> None:
    """One line of progress, on stderr: stdout carries nothing but the model's path."""
    print(line, file=sys.stderr, flush=True)


def build_once(out: Path, recipe: Recipe, build: Callable[[Path], None]) -> bool:
    """Make `out` by `build(empty directory)` unless it is there already, made by the same `recipe`.

    The directory appears under its name in one rename, complete, or not at all. Concurrent callers wait for
    each other and build once. Returns whether anything was built. Raises `ModelError` if `out` holds
    something that was not made here, which is never overwritten.
    """
    out = out.expanduser().absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out.parent / f".{out.name}.lock"):
        if _recipe_of(out) == dict(recipe):
            return False
        _refuse_foreign(out)
        scratch = out.parent / f".{out.name}.partial"
        # Left by a build that was killed: whoever holds the lock is alone.
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            fresh = scratch / "new"
            fresh.mkdir()
            build(fresh)
            (fresh / RECIPE_FILE).write_text(json.dumps(dict(recipe), indent=2, sort_keys=True) + "\n")
            if out.exists():
                out.rename(scratch / "old")
            fresh.rename(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return True


def _recipe_of(out: Path) -> dict[str, str | int | float] | None:
    try:
        content = json.loads((out / RECIPE_FILE).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{out / RECIPE_FILE}: {error}; remove {out} to build it anew") from error
    return content if isinstance(content, dict) else None


def _refuse_foreign(out: Path) -> None:
    if not out.exists() or (out / RECIPE_FILE).exists():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise ModelError(f"{out} exists and was not made by TurboSpec; name another place, or remove it")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that builds {path.name[1:].removesuffix('.lock')}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
