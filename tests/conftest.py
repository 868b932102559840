"""Tests that import SGLang do it as our launcher does: with the CPU kernels in place."""

import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from sglang_patch.cpu import activate
from tests.support.turns import Turns

# In the background of a shell SIGINT is ignored, and what tests start would inherit that, and not be stopped.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

activate.mark_environment(os.environ)
activate.activate_in_process()
# Services that tests start keep nothing, unless a test is about that.
os.environ["TURBOSPEC_SERVICE_STORE"] = ""

# What a busy neighbour could change: who waits for a step's deadline, and for how long.
ALONE = ("chaos", "integration/plugin")
TURNS = pytest.StashKey[Turns]()


def pytest_configure(config: pytest.Config) -> None:
    # Set by pytest-xdist in the processes of one run.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run:
        turns = Turns(Path(tempfile.gettempdir()) / f"turbospec-tests-{run}")
        config.stash[TURNS] = turns
        config.add_cleanup(turns.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if any(here / directory in item.path.parents for directory in ALONE):
            item.add_marker(pytest.mark.alone)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)
