"""Who this engine is, as the service needs to know it."""

from __future__ import annotations

import platform
import socket
import time
from importlib.metadata import version
from typing import Any

import torch

from sglang_patch.contract import sglang_version
from sglang_patch.control import StepControl
from turbospec.v1.control_pb2 import EngineProfile


def engine_profile(scheduler: Any, control: StepControl) -> EngineProfile:
    args = scheduler.server_args
    return EngineProfile(
        engine_id=control.config.engine_id or f"{socket.gethostname()}:{args.port}",
        # Nanoseconds since 1970: larger at every start, without anything to remember.
        epoch=time.time_ns(),
        sglang_version=sglang_version(),
        plugin_version=version("turbospec"),
        target_model=args.model_path,
        draft_model=args.speculative_draft_model_path or "",
        dtype=str(scheduler.model_config.dtype).removeprefix("torch."),
        accelerator=_accelerator(),
        tensor_parallel_size=args.tp_size,
        data_parallel_size=args.dp_size,
        pipeline_parallel_size=args.pp_size,
        algorithm=args.speculative_algorithm,
        topk=args.speculative_eagle_topk or 1,
        candidate_num_steps=control.candidates,
        graph_batch_sizes=control.graph_batch_sizes,
        max_running_requests=scheduler.max_running_requests,
        launch_num_steps=control.launch_num_steps,
    )


def _accelerator() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu {_cpu_model()}, {torch.get_num_threads()} threads"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.machine()
