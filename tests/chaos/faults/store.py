"""Where the service keeps what it learns cannot be written."""

from __future__ import annotations

import resource
from typing import Final

from tests.chaos.engine import EngineStalled
from tests.chaos.fault import Fault
from tests.chaos.stage import START_TIMEOUT_S, StoreStage


def _fill(stage: StoreStage) -> None:
    """A new stream is what the service has to say something about; its log takes no more either."""
    resource.prlimit(stage.service.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    stage.engine.agent().kill()
    stage.engine.run(50)
    if not stage.engine.wait_controlled(START_TIMEOUT_S):
        raise EngineStalled("no control while the service's disk is full")


def _make_room(stage: StoreStage) -> None:
    resource.prlimit(
        stage.service.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )


def _protect(stage: StoreStage) -> None:
    stage.service.kill()
    for file in stage.store.parent.iterdir():
        file.chmod(0o400)
    stage.store.parent.chmod(0o500)
    stage.service.start()


def _unprotect(stage: StoreStage) -> None:
    stage.store.parent.chmod(0o700)
    for file in stage.store.parent.iterdir():
        file.chmod(0o600)


FAULTS: Final = (
    Fault(
        "disk full",
        "no file of the service may grow any more (limit 0), its log included; the engine must reconnect",
        StoreStage,
        inject=_fill,
        heal=_make_room,
        kills_witness=True,
    ),
    Fault(
        "read-only store",
        "the service is killed and starts again on a store that it may read and not write",
        StoreStage,
        inject=_protect,
        heal=_unprotect,
    ),
)
