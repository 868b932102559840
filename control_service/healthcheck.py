"""`python -m control_service.healthcheck [ADDRESS]`: for container health checks.

Exit status 0 if the service at ADDRESS says that it is serving, else 1. Without ADDRESS: where the service of
this environment listens (the first address of TURBOSPEC_SERVICE_LISTEN).
"""

from __future__ import annotations

import os
import sys

from control_service.cli.health import service_ready
from control_service.settings import default_listen


def main(arguments: list[str]) -> int:
    """See above."""
    listen = os.environ.get("TURBOSPEC_SERVICE_LISTEN") or default_listen()
    address = arguments[0] if arguments else listen.partition(",")[0]
    if service_ready(address):
        return 0
    print(f"the control service at {address} is not serving", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
