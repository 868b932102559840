"""Writes the dashboards that Grafana loads: `python -m dashboards.generate [--check]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import engine, fleet

GRAFANA: Final = Path(__file__).resolve().parent / "grafana"


def texts() -> dict[Path, str]:
    """JSON by file."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {
        GRAFANA / f"{name}.json": encoder.encode(module.build().build()) + "\n"
        for name, module in (("fleet", fleet), ("engine", engine))
    }


def main() -> int:
    """Exit status: 0; with --check, 1 if a file is not what the code says."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    stale = [p for p, text in texts().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    if check:
        for path in stale:
            print(f"{path} is out of date; to write it anew: python -m dashboards.generate")
        return 1 if stale else 0
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
