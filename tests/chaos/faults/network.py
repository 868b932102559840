"""What lies between engine and service goes silent, delays or refuses."""

from __future__ import annotations

from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.stage import EnvoyStage, ProxyStage
from tests.support.envoy import ABORTED_PERCENT, DELAY_S, DELAYED_PERCENT, STREAM_LIFE_S


def _trouble(stage: EnvoyStage) -> None:
    stage.proxy.switch(stage.envoy.troubled)


def _calm(stage: EnvoyStage) -> None:
    stage.proxy.switch(stage.envoy.calm)


def _cut(stage: ProxyStage) -> str:
    stage.proxy.cut()
    return "the dead connection was reset"


FAULTS: Final = (
    Fault(
        "network stalls",
        "a TCP relay holds every byte back without closing; later all of it arrives",
        ProxyStage,
        inject=lambda stage: stage.proxy.freeze(),
        heal=lambda stage: stage.proxy.thaw(),
    ),
    Fault(
        "half-open connection",
        "a TCP relay forgets the connection without closing it; only a new one would get through",
        ProxyStage,
        inject=lambda stage: stage.proxy.forget(),
        rescue=_cut,
    ),
    Fault(
        "Envoy: delays and aborts",
        f"{DELAYED_PERCENT} % of messages, both ways, and of new streams and exports delayed"
        f" {DELAY_S * 1e3:.0f} ms,"
        f" {ABORTED_PERCENT} % of new streams and exports refused as UNAVAILABLE,"
        f" every decision stream ended after {STREAM_LIFE_S * 1e3:.0f} ms",
        EnvoyStage,
        inject=_trouble,
        heal=_calm,
        steps=1500,
    ),
)
