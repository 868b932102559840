"""Policies by the name that an operator gives."""

from __future__ import annotations

from collections.abc import Callable

from control_service.core.goodput import GoodputPolicy
from control_service.core.policies.ema import EmaPolicy
from control_service.core.policies.ema_config import default_slots, parse_slots
from control_service.core.policies.parse import no_more, parse_length, parse_positive, parse_table
from control_service.core.policies.schedule import SchedulePolicy
from control_service.core.policies.static import StaticPolicy
from control_service.core.policies.turbospec import ACCEPTANCES, TurboSpecPolicy
from control_service.core.policy import Policy
from control_service.core.types import EngineProfile
from control_service.core.validation import InvalidFieldError

MAX_PARAMETERS = 16


def make_policy(name: str, parameters: dict[str, str], profile: EngineProfile) -> Policy:
    """The policy an operator named. Raises InvalidFieldError.

    goodput: itl_target_ms, none by default. static: num_steps. schedule: table, `1:5,8:3,64:0`. ema: config,
    the JSON of SGLang's adaptive config (default: SGLang's table). turbospec: acceptance,
    `reached` (default) or `drafted`.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidFieldError("parameters", len(parameters), f"at most {MAX_PARAMETERS}")
    factory = _FACTORIES.get(name)
    if factory is None:
        raise InvalidFieldError("policy", name, f"one of {sorted(_FACTORIES)}")
    return factory(dict(parameters), profile)


def policy_names() -> tuple[str, ...]:
    """What `make_policy` knows."""
    return tuple(sorted(_FACTORIES))


def _goodput(parameters: dict[str, str], profile: EngineProfile) -> Policy:
    text = parameters.pop("itl_target_ms", None)
    no_more(parameters, "goodput", ("itl_target_ms",))
    if text is None:
        return GoodputPolicy(profile)
    return GoodputPolicy(profile, parse_positive("parameters.itl_target_ms", text) / 1_000.0)


def _static(parameters: dict[str, str], profile: EngineProfile) -> Policy:
    text = parameters.pop("num_steps", "")
    no_more(parameters, "static", ("num_steps",))
    length = parse_length("parameters.num_steps", text, profile.candidate_num_steps)
    return StaticPolicy(length, profile.max_running_requests)


def _schedule(parameters: dict[str, str], profile: EngineProfile) -> Policy:
    text = parameters.pop("table", "")
    no_more(parameters, "schedule", ("table",))
    table = parse_table("parameters.table", text, profile.candidate_num_steps)
    return SchedulePolicy(table, profile.max_running_requests)


def _ema(parameters: dict[str, str], profile: EngineProfile) -> Policy:
    text = parameters.pop("config", None)
    no_more(parameters, "ema", ("config",))
    candidates = profile.candidate_num_steps
    return EmaPolicy(profile, default_slots(candidates) if text is None else parse_slots(text, candidates))


def _turbospec(parameters: dict[str, str], profile: EngineProfile) -> Policy:
    acceptance = parameters.pop("acceptance", ACCEPTANCES[0])
    no_more(parameters, "turbospec", ("acceptance",))
    if acceptance not in ACCEPTANCES:
        raise InvalidFieldError("parameters.acceptance", acceptance, f"one of {list(ACCEPTANCES)}")
    return TurboSpecPolicy(profile, acceptance)


_FACTORIES: dict[str, Callable[[dict[str, str], EngineProfile], Policy]] = {
    "ema": _ema,
    "goodput": _goodput,
    "schedule": _schedule,
    "static": _static,
    "turbospec": _turbospec,
}
