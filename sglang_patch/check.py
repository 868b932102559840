"""`python -m sglang_patch.check [DEVICE]`: would SGLang be under control if it started here and now?

Prints one JSON object, that of `examine`; whatever SGLang prints as it is imported goes to stderr. Nothing is
compiled, downloaded or patched. DEVICE is what SGLang would be started with: `cpu` (default) or `cuda`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from sglang_patch import contract
from sglang_patch.config import ConfigError, EngineConfig

PLUGIN: Final = "turbospec"
PLUGIN_GROUP: Final = "sglang.srt.plugins"
_ADDRESS: Final = "TURBOSPEC_CONTROL_ADDRESS"


def examine(device: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What was found.

    active: whether the plugin has an address to connect to. setting_errors: each as the engine would say it,
    whether or not it is active. sglang: installed version, null for none. tested_sglang. import_error: why
    SGLang cannot be imported, else null. plugin: null if SGLang finds and loads it, else why not. drifts:
    what of the contract does not hold. accelerator: the GPU that torch sees, or null. kernels: for `cpu`,
    see `cpu_kernels`; null for other devices.
    """
    found: dict[str, Any] = {
        "active": bool(environment.get(_ADDRESS)),
        "setting_errors": setting_errors(environment),
        "sglang": _installed("sglang"),
        "tested_sglang": contract.TESTED_SGLANG,
        "import_error": None,
        "plugin": None,
        "drifts": [],
        "accelerator": None,
        "kernels": None,
    }
    if found["sglang"] is None:
        return found
    try:
        found["kernels"] = cpu_kernels() if device == "cpu" else None
        found["accelerator"] = _accelerator()
        found["plugin"] = plugin_problem()
        found["drifts"] = drifts()
    except Exception as error:
        # Whatever an installation can be broken by: the point is to say so.
        found["import_error"] = f"{type(error).__name__}: {error}"
    return found


def setting_errors(environment: Mapping[str, str]) -> list[str]:
    """Every variable that would stop an engine under control, in the engine's own words."""
    left = dict(environment)
    if not left.get(_ADDRESS):
        left[_ADDRESS] = "unix:/not/set"
    errors: list[str] = []
    while True:
        try:
            EngineConfig.from_env(left)
        except ConfigError as error:
            if str(error) in errors:
                # Of several variables together: taking one out does not help.
                return errors
            errors.append(str(error))
            # What is wrong goes out, so that what comes after it is heard of too.
            left[error.field] = ""
            if error.field == _ADDRESS:
                left[_ADDRESS] = "unix:/not/set"
            elif error.field not in _known():
                del left[error.field]
        else:
            return errors


def plugin_problem() -> str | None:
    """Why SGLang would not load the plugin; None if it would."""
    try:
        plugins = importlib.import_module("sglang.srt.plugins")
        found = plugins.load_plugins_by_group(PLUGIN_GROUP)
    except (ImportError, AttributeError) as error:
        return f"SGLang's plugin loader is not where it was ({error})"
    if PLUGIN in found:
        return None
    only = os.environ.get("SGLANG_PLUGINS")
    return (
        f"SGLANG_PLUGINS={only!r} leaves it out" if only else "its entry point is not found, or fails to load"
    )


def drifts() -> list[str]:
    """What of SGLang is not as the plugin needs it."""
    try:
        contract.verify()
    except contract.ContractDrift as drift:
        return drift.drifts
    return []


def cpu_kernels() -> dict[str, str | None]:
    """The kernels for SGLang without a GPU, made ready as its launcher would if they are compiled already.

    library: path of the compiled kernels, null if that is yet to be done; compiler: which one would do it;
    problem: why the kernels cannot be had, else null.
    """
    from sglang_patch.cpu import activate, build  # noqa: PLC0415  (imports torch)

    found: dict[str, str | None] = {"library": None, "compiler": None, "problem": None}
    path = build.library_path()
    try:
        found["compiler"] = build.compiler()
    except build.BuildError as error:
        found["problem"] = None if path.exists() else str(error)
    if not path.exists():
        return found
    found["library"] = str(path)
    activate.mark_environment(os.environ)
    try:
        activate.activate_in_process()
    except (NotImplementedError, OSError) as error:
        # Another SGLang than they fit, or a library that does not load.
        found["problem"] = str(error)
    return found


def _known() -> set[str]:
    return {f"TURBOSPEC_{name.upper()}" for name in EngineConfig.__dataclass_fields__}


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    torch = importlib.import_module("torch")
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def main(argv: list[str]) -> None:
    device = argv[0] if argv else "cpu"
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        # SGLang and what it imports warn as they are imported; that is theirs.
        warnings.simplefilter("ignore")
        found = examine(device, dict(os.environ))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
