"""docs/configuration.md: every setting of the service, the engine side and the tools."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin
from unittest import mock

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from control_service.settings import ServiceSettings
from scripts.markdown import code, table
from sglang_patch.config import ConfigError, EngineConfig

SERVICE_PREFIX: Final = "TURBOSPEC_SERVICE_"
ADDRESS: Final = "TURBOSPEC_CONTROL_ADDRESS"
# No setting takes it, so that each says what it does take.
UNUSABLE: Final = "\N{NULL}"
BOUNDS: Final = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
TOOLS: Final = (
    (
        "TURBOSPEC_ADMIN_TOKEN_FILE",
        "none",
        "a file",
        "token of a control service reached over TCP, see [security](security.md)",
    ),
    (
        "TURBOSPEC_CACHE_DIR",
        "`~/.cache/turbospec`",
        "a directory",
        "where compiled kernels and converted models are kept",
    ),
    (
        "TURBOSPEC_UP_RUN_DIR",
        "`.run`",
        "a directory",
        "where `turbospec up` keeps its state and logs, and other commands look for it; `--run-dir` wins",
    ),
    (
        "TURBOSPEC_CPU_KERNELS",
        "set by the launcher",
        "`1`",
        "tells SGLang's processes that the CPU kernels are wanted; not for you to set",
    ),
    (
        "OMP_NUM_THREADS",
        "`1` on a CPU",
        "1 and more",
        "threads of the CPU kernels; SGLang's other processes need a core too, so more pay only where cores "
        "are to spare: with a larger model, or many requests on a processor without AVX-512",
    ),
)


def render() -> str:
    return f"""# Configuration

Nothing needs to be set: `turbospec up` chooses what fits. A value that cannot be used, or a name that is not
one of these, stops the program at its start with the name, the value and what is allowed.
`turbospec doctor` finds all of them at once. The options of every command are in [cli.md](cli.md).

## Control service

Flags of `turbospec control`, or variables in its environment; flags win. With `turbospec up`, which sets some
of them itself (listen, metrics_listen, mode), use variables for the others.

{_service()}

## Engine

Read once, as SGLang starts, from its environment. `turbospec up` sets address, engine id and candidates.

{_engine()}

## Tools

{table(("variable", "default", "allowed", "meaning"), [(code(tool[0]), *tool[1:]) for tool in TOOLS])}
"""


def _service() -> str:
    rows = []
    with _anybody():
        for name, field in ServiceSettings.model_fields.items():
            flag = f"--{name.replace('_', '-')}"
            rows.append(
                (
                    code(flag),
                    code(f"{SERVICE_PREFIX}{name.upper()}"),
                    code(_default(field)),
                    _allowed(field),
                    field.description or "",
                )
            )
    return table(("flag", "variable", "default", "allowed", "meaning"), rows)


@contextmanager
def _anybody() -> Iterator[None]:
    """Defaults as they are for a user whose name we do not know."""
    neutral = {"XDG_STATE_HOME": "~/.local/state", "XDG_RUNTIME_DIR": "$XDG_RUNTIME_DIR"}
    with mock.patch.dict(os.environ, neutral):
        yield


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _allowed(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(code(str(choice)) for choice in get_args(kind))
    bounds = [
        form.format(f"{getattr(constraint, name):,}".removesuffix(".0"))
        for constraint in field.metadata
        for name, form in BOUNDS.items()
        if getattr(constraint, name, None) is not None
    ]
    return ", ".join(bounds) or _kind(kind)


def _kind(kind: Any) -> str:
    names = {bool: "`true`, `false`", Path: "a path", str: "see meaning"}
    return next(
        (name for type_, name in names.items() if kind is type_ or type_ in get_args(kind)), str(kind)
    )


def _engine() -> str:
    defaults = EngineConfig.from_env({ADDRESS: "unix:/unset"})
    assert defaults is not None
    meanings = _comments(EngineConfig)
    rows = []
    for field in fields(EngineConfig):
        variable = f"TURBOSPEC_{field.name.upper()}"
        default = (
            "unset: the plugin is inactive"
            if variable == ADDRESS
            else code(_text(getattr(defaults, field.name)))
        )
        rows.append((code(variable), default, _taken(variable), meanings.get(field.name, "")))
    return table(("variable", "default", "allowed", "meaning"), rows)


def _taken(variable: str) -> str:
    """What the engine says is allowed."""
    try:
        EngineConfig.from_env({ADDRESS: "unix:/unset", variable: UNUSABLE})
    except ConfigError as error:
        return str(error).partition("allowed is ")[2]
    return "any text"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if type(value) is tuple:
        return ",".join(map(str, value))
    return str(value)


def _comments(owner: type) -> dict[str, str]:
    """The comment above each field of a class."""
    source = textwrap.dedent(inspect.getsource(owner))
    lines = source.splitlines()
    (cls,) = ast.parse(source).body
    assert isinstance(cls, ast.ClassDef)
    found: dict[str, str] = {}
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above: list[str] = []
            row = node.lineno - 2
            while lines[row].strip().startswith("#"):
                above.insert(0, lines[row].strip().removeprefix("#").strip())
                row -= 1
            found[node.target.id] = " ".join(above)
    return found
