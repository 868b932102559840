"""What a scheduler process tells its agent, as one line of JSON."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from sglang_patch.addresses import TlsFiles
from turbospec.v1.control_pb2 import EngineProfile


class Order(NamedTuple):
    """What the scheduler process tells its agent."""

    descriptor: int
    ring_size: int
    max_batch_size: int
    # As the configuration has them: several control addresses separated by commas.
    control_address: str
    # Empty: records go the way of the decision stream.
    otlp_address: str
    tls: TlsFiles | None
    export_interval_ms: int
    step_deadline_us: int
    profile: EngineProfile
    scheduler_pid: int

    def dump(self) -> str:
        fields: dict[str, Any] = self._asdict()
        return json.dumps({**fields, "profile": base64.b64encode(self.profile.SerializeToString()).decode()})

    @classmethod
    def load(cls, text: str) -> Order:
        fields = json.loads(text)
        fields["profile"] = EngineProfile.FromString(base64.b64decode(fields["profile"]))
        fields["tls"] = TlsFiles(*fields["tls"]) if fields["tls"] else None
        return cls(**fields)
