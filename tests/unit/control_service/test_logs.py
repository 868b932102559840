"""A log that cannot be written costs its lines and nothing else."""

import subprocess
import sys

SCRIPT = """
import structlog
from control_service.server.logs import configure_logs
configure_logs("json", "info")
for _ in range(1000):
    structlog.get_logger().info("a line", size=100 * "x")
print("still here")
"""


def test_a_full_disk_under_the_log_raises_nothing() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, "still here\n")


def test_lines_reach_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr.count('"event": "a line"') == 1000
