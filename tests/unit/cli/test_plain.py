"""JSON output: numbers that a program can calculate with."""

from __future__ import annotations

import json
import math

from control_service.cli.plain import to_plain
from turbospec.v1 import admin_pb2, control_pb2


def test_every_field_is_there_as_a_number_a_name_or_null() -> None:
    status = admin_pb2.EngineStatus(
        profile=control_pb2.EngineProfile(engine_id="e", epoch=2**63, candidate_num_steps=[0, 1]),
        mode=control_pb2.MODE_CANARY,
        steps_by_source={"lease": 3},
        steps_by_num_steps={5: 2, 0: 1},
        acceptance_rate=math.nan,
        goodput_tokens_per_s=12.5,
    )
    plain = json.loads(json.dumps(to_plain(status), allow_nan=False))
    assert plain["profile"]["epoch"] == 2**63
    assert plain["profile"]["candidate_num_steps"] == [0, 1]
    assert plain["profile"]["draft_model"] == ""
    assert plain["mode"] == "canary"
    assert plain["steps_by_source"] == {"lease": 3}
    assert plain["steps_by_num_steps"] == {"0": 1, "5": 2}
    assert plain["acceptance_rate"] is None
    assert plain["goodput_tokens_per_s"] == 12.5
    assert plain["step_control_us"] == {"count": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}


def test_messages_in_lists_are_plain_too() -> None:
    answer = admin_pb2.ListEnginesResponse(engines=[admin_pb2.EngineStatus(policy="goodput")])
    assert to_plain(answer)["engines"][0]["policy"] == "goodput"
