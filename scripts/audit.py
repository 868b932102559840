"""Known vulnerabilities of the pinned packages, by pip-audit: `python scripts/audit.py [--osv-url URL]`.

Exit codes: 0 none is known; 1 some are, and are listed; 2 pip-audit cannot be run; 3 no vulnerability
service could be asked, so that nothing is known either way.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PINNED: Final = ("requirements/constraints.txt", "requirements/no-deps.txt")
# Asked in this order; one answer is enough.
SERVICES: Final = ("pypi", "osv")
SERVICE_TIMEOUT_S: Final = 15
AUDIT_TIMEOUT_S: Final = 600
CLEAN, VULNERABLE, NO_TOOL, NO_SERVICE = range(4)


def main() -> int:
    parser = argparse.ArgumentParser(description="Known vulnerabilities of the pinned packages.")
    parser.add_argument("--osv-url", help="query address of an OSV service of your own, asked alone")
    osv_url: str | None = parser.parse_args().osv_url
    if importlib.util.find_spec("pip_audit") is None:
        print("audit: pip-audit is not installed; run make setup", file=sys.stderr)
        return NO_TOOL
    reasons = []
    for service in SERVICES if osv_url is None else ("osv",):
        dependencies, reason = audit(service, osv_url)
        audited = [item for item in dependencies if "skip_reason" not in item]
        if audited:
            return report(service, audited, [item for item in dependencies if "skip_reason" in item])
        reasons.append(f"{service}: {reason}")
    print("audit: NOT DONE, no vulnerability service could be asked", file=sys.stderr)
    print("\n".join(f"  {reason}" for reason in reasons), file=sys.stderr)
    return NO_SERVICE


def audit(service: str, osv_url: str | None) -> tuple[list[dict[str, Any]], str]:
    """What one service says of each pinned package, and if it says nothing, why."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "audit.json"
        command = [
            *(sys.executable, "-m", "pip_audit", "--vulnerability-service", service),
            *(("--osv-url", osv_url) if osv_url is not None else ()),
            *(word for name in PINNED for word in ("--requirement", str(ROOT / name))),
            # The pins are complete: nothing is to be resolved, nothing installed.
            *("--no-deps", "--disable-pip", "--progress-spinner", "off"),
            *("--timeout", str(SERVICE_TIMEOUT_S), "--format", "json", "--output", str(answer)),
        ]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=AUDIT_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return [], f"no answer within {AUDIT_TIMEOUT_S} s"
        said = [line for line in done.stderr.splitlines() if line.strip()]
        if not answer.exists():
            return [], said[-1] if said else f"pip-audit ended with {done.returncode}"
        dependencies: list[dict[str, Any]] = json.loads(answer.read_text())["dependencies"]
        skipped = next((item["skip_reason"] for item in dependencies if "skip_reason" in item), "no answer")
        return dependencies, f"audits none of the packages: {skipped}"


def report(service: str, audited: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> int:
    """Print what was found; the exit code."""
    for item in skipped:
        print(f"not audited: {item['name']}: {item['skip_reason']}")
    vulnerable = [item for item in audited if item["vulns"]]
    for item in vulnerable:
        for vulnerability in item["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"{item['name']} {item['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{len(audited)} packages audited against {service}, {len(vulnerable)} of them vulnerable")
    return VULNERABLE if vulnerable else CLEAN


if __name__ == "__main__":
    sys.exit(main())
