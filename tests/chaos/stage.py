"""What a fault is done to: a control service, an engine that steps, and what lies between them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from tests.chaos.engine import EngineProcess, EngineStalled
from tests.support.collector import Collector
from tests.support.control_process import ControlProcess
from tests.support.envoy import Envoy
from tests.support.hostile_service import HostileService
from tests.support.tcp_proxy import TcpProxy
from tests.support.wall_clock import WallClock

START_TIMEOUT_S: Final = 30.0
# What root must lose before the mode of a file means anything to it.
_MODE_OVERRIDES: Final = "-dac_override,-dac_read_search"

S = TypeVar("S", bound="Stage")


class Stage:
    """The real service on a Unix socket, and an engine that talks to it directly.

    Telemetry always goes through a collector of ours, which keeps it. Leaving it ends everything.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._cleanup = ExitStack()
        self._cleanup.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._epoch = 10
        self.service = self._make_service()
        self.collector = Collector(self.service.address)
        self.engine: EngineProcess
        # A next life of the engine that runs beside the last.
        self.successor: EngineProcess | None = None

    def __enter__(self: S) -> S:
        try:
            self._set_up()
            self.engine = self.start_engine()
            if not self.engine.wait_controlled(START_TIMEOUT_S):
                raise EngineStalled(f"no control within {START_TIMEOUT_S:.0f} s of a start without faults")
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def start_engine(self) -> EngineProcess:
        """The next life of the engine: same name, greater epoch."""
        self._epoch += 1
        engine = EngineProcess(
            self.directory,
            epoch=self._epoch,
            control_address=self.control_address(),
            otlp_address=self.otlp_address(),
            environment=self.environment(),
        )
        self._cleanup.callback(engine.stop)
        return engine

    @property
    def kill_file(self) -> Path:
        return self.directory / "kill"

    # -- what other stages do otherwise ----------------------------------------

    def control_address(self) -> str:
        return self.service.address

    def otlp_address(self) -> str:
        return f"unix:{self._otlp_socket}"

    def environment(self) -> Mapping[str, str]:
        """Of the engine."""
        return {}

    def _make_service(self) -> ControlProcess:
        return ControlProcess(self.directory)

    def _set_up(self) -> None:
        self.service.start()
        self._cleanup.callback(self.service.stop)
        self.collector.start(self._otlp_socket)
        self._cleanup.callback(self.collector.stop)

    @property
    def _otlp_socket(self) -> Path:
        return self.directory / "otlp.sock"


class ProxyStage(Stage):
    """The decision stream goes over TCP, through a relay that can go silent."""

    def __init__(self) -> None:
        super().__init__()
        self.proxy = TcpProxy(self.service.socket)

    def control_address(self) -> str:
        return self.proxy.address

    def _set_up(self) -> None:
        super()._set_up()
        self.proxy.start()
        self._cleanup.callback(self.proxy.stop)


class EnvoyStage(ProxyStage):
    """Decisions and telemetry go through a real Envoy; the relay leads to its calm or troubled listener."""

    def __init__(self) -> None:
        super().__init__()
        self.envoy = Envoy(self.directory, service=self.service.socket, collector=self._otlp_socket)

    def otlp_address(self) -> str:
        return self.proxy.address

    def _set_up(self) -> None:
        self.envoy.start()
        self._cleanup.callback(self.envoy.stop)
        super()._set_up()
        self.proxy.switch(self.envoy.calm)


class HostileStage(Stage):
    """A service that lies when told to, in place of the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.collector = Collector(None)
        self.hostile = HostileService()

    def _set_up(self) -> None:
        self.hostile.start(self.service.socket)
        self._cleanup.callback(self.hostile.stop)
        self.collector.start(self._otlp_socket)
        self._cleanup.callback(self.collector.stop)


class StoreStage(Stage):
    """The service keeps what it learns in a file, and saves often. Modes of files bind it even under root."""

    @property
    def store(self) -> Path:
        return self.directory / "state" / "learned.sqlite3"

    def _make_service(self) -> ControlProcess:
        environment = {
            "TURBOSPEC_SERVICE_STORE": str(self.store),
            "TURBOSPEC_SERVICE_STORE_SAVE_INTERVAL_S": "0.1",
        }
        wrapper = ("setpriv", f"--bounding-set={_MODE_OVERRIDES}", f"--inh-caps={_MODE_OVERRIDES}")
        return ControlProcess(
            self.directory, environment=environment, wrapper=wrapper if os.geteuid() == 0 else ()
        )


class FakeClockStage(Stage):
    """Engine, agent and service read a wall clock that can be set; the monotonic clock stays true."""

    def environment(self) -> Mapping[str, str]:
        return self.clock.environment

    def _make_service(self) -> ControlProcess:
        self.clock = WallClock(self.directory)
        return ControlProcess(self.directory, environment=self.clock.environment)
