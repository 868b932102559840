"""What a scheduler process tells its agent, as one line of JSON."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from turbospec.v1.control_pb2 import EngineProfile


class Order(NamedTuple):
    """What the scheduler process tells its agent."""

    descriptor: int
    ring_size: int
    max_batch_size: int
    control_address: str
    telemetry_address: str
    export_interval_ms: int
    # Mode "off" wants no decisions, only records.
    decide: bool
    profile: EngineProfile
    scheduler_pid: int

    def dump(self) -> str:
        fields: dict[str, Any] = self._asdict()
        return json.dumps({**fields, "profile": base64.b64encode(self.profile.SerializeToString()).decode()})

    @classmethod
    def load(cls, text: str) -> Order:
        fields = json.loads(text)
        return cls(**{**fields, "profile": EngineProfile.FromString(base64.b64decode(fields["profile"]))})
