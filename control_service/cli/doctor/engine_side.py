"""SGLang and our plugin in it: looked at by a program of the engine side, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from control_service.cli.doctor.finding import Finding, Findings, ok, problem, warning
from control_service.cli.doctor.subject import Subject
from control_service.cli.options import resolve_device

TIMEOUT_S: Final = 180.0
STDERR_LINES: Final = 5
NEW_RELEASE: Final = "docs/new-sglang-release.md says how to follow a new SGLang"
REINSTALL: Final = "set up anew (make setup), or pip install 'turbospec[engine]' beside SGLang"


def check(subject: Subject) -> Findings:
    """SGLang's version, the contract, the plugin, the CPU kernels, and the engine's settings."""
    device = resolve_device(subject.device)
    try:
        report = look(device, subject.environment)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield problem("sglang", f"the engine side could not be looked at: {error}", REINSTALL)
        return
    if report["sglang"] is None:
        yield warning(
            "sglang",
            "not installed in this Python",
            f"none needed where only the control service runs; else: {REINSTALL}",
        )
    elif report["import_error"]:
        yield problem("sglang", f"{report['sglang']} cannot be imported: {report['import_error']}", REINSTALL)
    else:
        yield from _sglang(report, device)
    yield from _settings(report)


def look(device: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What `python -m sglang_patch.check` reports. Raises OSError, ValueError or SubprocessError."""
    done = subprocess.run(
        [sys.executable, "-m", "sglang_patch.check", device],
        capture_output=True,
        text=True,
        env=dict(environment),
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        end = " | ".join(done.stderr.strip().splitlines()[-STDERR_LINES:])
        raise ValueError(f"exit code {done.returncode}: {end}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _sglang(report: Mapping[str, Any], device: str) -> Findings:
    installed, tested = report["sglang"], report["tested_sglang"]
    if installed == tested:
        yield ok("sglang", f"{installed}, the version that was tested")
    else:
        yield warning("sglang", f"{installed}; tested with {tested}", f"install {tested}, or: {NEW_RELEASE}")
    if report["drifts"]:
        for drift in report["drifts"]:
            yield problem("contract", drift, f"install sglang {tested}, or: {NEW_RELEASE}")
    else:
        yield ok("contract", "everything of SGLang that the plugin relies on is in place")
    if report["plugin"] is None:
        yield ok("plugin", "SGLang finds and loads it")
    else:
        yield problem("plugin", f"SGLang does not load it: {report['plugin']}", REINSTALL)
    if device == "cuda" and report["accelerator"] is None:
        yield problem(
            "torch", "sees no GPU, though there is one", "install torch's CUDA build for this driver"
        )
    elif device == "cuda":
        yield ok("torch", f"sees {report['accelerator']}")
    if report["kernels"] is not None:
        yield _kernels(report["kernels"])


def _kernels(kernels: Mapping[str, str | None]) -> Finding:
    if kernels["problem"] is not None:
        fix = "install g++ (apt-get install g++), or name a compiler in CXX"
        return problem(
            "cpu kernels", str(kernels["problem"]), fix if kernels["library"] is None else REINSTALL
        )
    if kernels["library"] is None:
        return ok("cpu kernels", f"not compiled yet; the first start does it with {kernels['compiler']}")
    return ok("cpu kernels", f"compiled, {kernels['library']}")


def _settings(report: Mapping[str, Any]) -> Findings:
    for error in report["setting_errors"]:
        yield problem("engine settings", error, "correct or unset it; docs/configuration.md lists them all")
    if not report["setting_errors"]:
        state = "set" if report["active"] else "TURBOSPEC_CONTROL_ADDRESS not set here: plugin inactive"
        yield ok("engine settings", f"usable ({state})")
