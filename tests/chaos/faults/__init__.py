"""Every fault, in the order of the table; those of one stage stand together, so that they can share it."""

from __future__ import annotations

from typing import Any, Final

from tests.chaos.fault import Fault
from tests.chaos.faults import clock, engine, lies, network, service, store

FAULTS: Final[tuple[Fault[Any], ...]] = (
    *service.FAULTS,
    *engine.FAULTS,
    *network.FAULTS,
    *lies.FAULTS,
    *store.FAULTS,
    *clock.FAULTS,
)
BY_NAME: Final = {fault.name: fault for fault in FAULTS}
