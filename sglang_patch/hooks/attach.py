"""Ties a ``StepControl`` to the worker it steers, and finds it again from a hook."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sglang_patch.config import EngineConfig
from sglang_patch.control import MAX_BATCH_SIZE, StepControl

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Attribute under which SGLang's objects carry ours.
_CONTROL: Final = "_turbospec_control"
DEFAULT_CANDIDATES: Final = (0, 1, 2, 3, 5, 7)


def control_of(owner: Any) -> StepControl | None:
    """The control that a scheduler or worker carries, if any."""
    control: StepControl | None = getattr(owner, _CONTROL, None)
    return control


def carry(owner: Any, control: StepControl | None) -> None:
    setattr(owner, _CONTROL, control)


def guarded(
    body: Callable[Concatenate[StepControl, P], R],
) -> Callable[Concatenate[StepControl, P], R | None]:
    """Run our own work on the step thread; if it raises, control ends and SGLang goes on.

    The hooks around each step and the timers of its phases contain themselves instead: with cold caches,
    passing arguments on through a wrapper costs as much as some of the work.
    """

    @functools.wraps(body)
    def wrapper(control: StepControl, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return body(control, *args, **kwargs)
        except Exception:
            control.fail(body.__qualname__)
            return None

    return wrapper


def contained(body: Callable[P, None]) -> Callable[P, None]:
    """Run our own work while SGLang starts; if it raises, the engine runs as launched.

    A setting that cannot be used still stops the engine: it comes as ``SystemExit``.
    """

    @functools.wraps(body)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            body(*args, **kwargs)
        except Exception:
            logger.exception(
                "turbospec: failed in %s; no control over this engine. It runs as launched.",
                body.__qualname__,
            )

    return wrapper


class Attacher:
    """Makes the control of a worker, or says why the worker cannot be controlled."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    def attach(self, worker: Any, launch_num_steps: int) -> StepControl | None:
        """A control for the worker to carry once it can apply lengths; None if it must stay as launched."""
        reason = _unsupported(worker)
        if reason:
            logger.error("turbospec: no control over this engine: %s. It runs as launched.", reason)
            return None
        candidates = candidates_for(self._config, launch_num_steps)
        return StepControl(
            self._config,
            candidates,
            launch_num_steps,
            worker.server_args.max_running_requests or MAX_BATCH_SIZE,
        )


def candidates_for(config: EngineConfig, launch_num_steps: int) -> tuple[int, ...]:
    """The lengths this engine may run: SGLang sizes its buffers for the launch length.

    Raises:
        SystemExit: a configured candidate is beyond the launch length.
    """
    if not config.candidates:
        return tuple(sorted({k for k in DEFAULT_CANDIDATES if k < launch_num_steps} | {launch_num_steps}))
    if config.candidates[-1] > launch_num_steps:
        raise SystemExit(
            f"turbospec: TURBOSPEC_CANDIDATES={','.join(map(str, config.candidates))} is not usable: allowed "
            f"is at most the length SGLang was launched with, {launch_num_steps}"
        )
    return config.candidates


def _unsupported(worker: Any) -> str:
    args = worker.server_args
    for size in ("tp_size", "pp_size", "dp_size"):
        # Ranks that decide each for itself would run different lengths and hang.
        if getattr(args, size) != 1:
            return f"--{size.replace('_', '-')} {getattr(args, size)} is not supported yet, only 1"
    if getattr(worker, "topk", 1) not in (None, 1):
        return f"--speculative-eagle-topk {worker.topk} is not supported, only 1"
    return ""
