"""A real SGLang server on CPU, started for a test and stopped by it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx

START_TIMEOUT_S: Final = 240
# Small pools: several servers share a small machine.
SIZES: Final = (
    "--max-total-tokens",
    "20000",
    "--max-running-requests",
    "16",
    "--context-length",
    "1024",
)


class EngineServer:
    """One ``python -m sglang_patch.launch`` process group."""

    def __init__(self, flags: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TURBOSPEC_")}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "sglang_patch.launch",
                    "--device",
                    "cpu",
                    "--port",
                    str(self.port),
                    *SIZES,
                    *flags,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **(environment or {})},
                # Not the checkout: what is found must come from the installation.
                cwd=log.parent,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> EngineServer:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"SGLang exited with {self.process.returncode}:\n{self.tail()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise TimeoutError(f"SGLang is not ready after {START_TIMEOUT_S} s:\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def generate(self, text: str, max_new_tokens: int) -> dict[str, Any]:
        """One greedy request; SGLang's answer with ``output_ids`` and ``meta_info``."""
        response = httpx.post(
            f"{self.url}/generate",
            json={
                "text": text,
                "sampling_params": {"max_new_tokens": max_new_tokens, "temperature": 0, "ignore_eos": True},
            },
            timeout=300,
        )
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def generate_many(self, prompts: list[str], max_new_tokens: int) -> list[list[int]]:
        """Staggered concurrent greedy requests of different lengths; their token ids in order."""

        def one(index: int) -> list[int]:
            time.sleep(0.05 * index)
            ids: list[int] = self.generate(prompts[index], max_new_tokens + 5 * index)["output_ids"]
            return ids

        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(one, range(len(prompts))))

    def stop(self) -> None:
        for signum, patience_s in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, signum)
            except ProcessLookupError:
                return
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
