"""TURBOSPEC_* in the environment: of service and tools, and the kill switch (the engine's: `engine_side`)."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from control_service.cli.channel import TOKEN_VARIABLE
from control_service.cli.doctor.finding import Findings, ok, problem, warning
from control_service.cli.doctor.subject import Subject
from control_service.settings import ServiceSettings

SERVICE_PREFIX: Final = "TURBOSPEC_SERVICE_"
# Prefixes of the tools around engine and service, with the variables that they have.
TOOL_VARIABLES: Final = {
    "TURBOSPEC_ADMIN_": (TOKEN_VARIABLE,),
    "TURBOSPEC_CACHE_": ("TURBOSPEC_CACHE_DIR",),
    "TURBOSPEC_CPU_": ("TURBOSPEC_CPU_KERNELS",),
    "TURBOSPEC_UP_": ("TURBOSPEC_UP_RUN_DIR",),
    "TURBOSPEC_BENCH_": (),
}
# Of a URL.
_PASSWORD: Final = re.compile(r"//[^@/]*@")
LIST: Final = "docs/configuration.md lists them all"


def check(subject: Subject) -> Findings:
    """Whether each is known and can be used, and whether the kill switch is engaged."""
    service_names = [f"{SERVICE_PREFIX}{name.upper()}" for name in ServiceSettings.model_fields]
    found = 0
    for name in sorted(subject.environment):
        known: tuple[str, ...] | list[str] | None = None
        if name.startswith(SERVICE_PREFIX):
            known = service_names
        else:
            known = next((names for prefix, names in TOOL_VARIABLES.items() if name.startswith(prefix)), None)
        if known is not None and name not in known:
            found += 1
            meant = difflib.get_close_matches(name, known, 1)
            fix = f"did you mean {meant[0]}? {LIST}" if meant else f"unset it; {LIST}"
            yield problem("service settings", f"{name} is not a setting", fix)
    try:
        ServiceSettings()
    except ValidationError as error:
        for item in error.errors():
            found += 1
            name = SERVICE_PREFIX + "_".join(map(str, item["loc"])).upper()
            value = _PASSWORD.sub("//...@", repr(item["input"]))
            yield problem(
                "service settings", f"{name}={value}: {item['msg']}", f"correct or unset it; {LIST}"
            )
    if not found:
        yield ok("service settings", "usable")
    yield from _kill_switch(subject)


def _kill_switch(subject: Subject) -> Findings:
    file = subject.environment.get("TURBOSPEC_KILL_FILE", "").strip()
    if subject.environment.get("TURBOSPEC_KILL_SWITCH") == "1":
        yield warning(
            "kill switch",
            "TURBOSPEC_KILL_SWITCH=1: an engine started here never speculates",
            "unset it and restart the engine",
        )
    elif file and Path(file).exists():
        yield warning("kill switch", f"{file} exists: no speculation", f"rm {file}")
    else:
        yield ok("kill switch", f"released ({file} does not exist)" if file else "none set here")
