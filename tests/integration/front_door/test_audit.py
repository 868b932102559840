"""`make audit`: known vulnerabilities, none, and nobody who could be asked are three different endings.

The real pip-audit asks an OSV service of the test's own.
"""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).resolve().parents[3] / "scripts" / "audit.py"
CLEAN, VULNERABLE, NO_SERVICE = 0, 1, 3


class Osv(http.server.ThreadingHTTPServer):
    """Knows vulnerabilities by package name, in the form of OSV's query interface."""

    def __init__(self) -> None:
        self.known: dict[str, list[dict[str, Any]]] = {}
        self.asked: set[str] = set()
        super().__init__(("127.0.0.1", 0), OsvHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class OsvHandler(http.server.BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.server.asked.add(name)
        body = json.dumps({"vulns": self.server.known[name]} if name in self.server.known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the test's screen."""


@pytest.fixture
def osv() -> Iterator[Osv]:
    with Osv() as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(AUDIT), "--osv-url", url]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_every_pinned_package_is_asked_about_and_what_is_known_is_named(osv: Osv) -> None:
    found = audit(osv.url)
    assert found.returncode == CLEAN, found
    assert "0 of them vulnerable" in found.stdout
    assert {"grpcio", "pydantic", "redis", "sglang"} <= osv.asked
    osv.known["redis"] = [
        {
            "id": "PYSEC-0000-1",
            "summary": "for the test",
            "affected": [
                {
                    "package": {"name": "redis", "ecosystem": "PyPI"},
                    "ranges": [
                        {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0.0"}]},
                    ],
                }
            ],
        }
    ]
    found = audit(osv.url)
    assert found.returncode == VULNERABLE, found
    assert "PYSEC-0000-1, fixed in 99.0.0" in found.stdout


def test_a_service_that_cannot_be_reached_is_no_clean_bill() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        found = audit(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/query")
    assert found.returncode == NO_SERVICE
    assert "NOT DONE" in found.stderr
    assert "vulnerable" not in found.stdout
