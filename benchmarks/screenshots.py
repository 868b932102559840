"""Pictures of the operator's page for the documents, of a real SGLang under a load that moves.

Run as `python -m benchmarks.screenshots`: starts `turbospec up`, sends chat and copying requests from a
changing number of clients, and writes page-light.png, page-dark.png and page-phone.png.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from PIL import Image
from playwright.async_api import Browser, async_playwright

from benchmarks.load import LoadGenerator
from benchmarks.workload import LoadKind, prompts

PHASES: Final = ((LoadKind.COPY, 1), (LoadKind.COPY, 4), (LoadKind.CHAT, 8), (LoadKind.COPY, 2))
# So that all of it fits into the five minutes that the page shows at first.
PHASE_S: Final = 65.0
START_TIMEOUT_S: Final = 900.0
STOP_TIMEOUT_S: Final = 60.0
# The first answer of a fresh service; then the charts have data.
SHOWN_TIMEOUT_MS: Final = 120_000
BYTES_MAX: Final = 200_000
COLOURS: Final = (256, 128, 64, 32)
CHROMIUM_FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
DESKTOP: Final = {"width": 1200, "height": 900}
PHONE: Final = {"width": 390, "height": 844}


@dataclass(frozen=True)
class Shot:
    """One picture: its name, what the window is like, and the page's height in it, pixels."""

    name: str
    window: dict[str, Any]
    height: int


SHOTS: Final = (
    Shot("page-light", {"viewport": DESKTOP, "color_scheme": "light"}, 2_000),
    Shot("page-dark", {"viewport": DESKTOP, "color_scheme": "dark"}, 2_000),
    Shot("page-phone", {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 1.5}, 1_400),
)


def main(
    *,
    directory: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("docs/images"),
    phase_s: Annotated[float, typer.Option(help="Seconds of each of the four loads.")] = PHASE_S,
) -> None:
    """Take the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(_run(directory, phase_s))


async def _run(directory: Path, phase_s: float) -> None:
    async with _serving() as state, async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM_FLAGS)
        )
        page_url = state["metrics_url"].removesuffix("metrics")
        async with LoadGenerator(state["endpoint"], prompts(PHASES[0][0], "page", 0)) as load:
            for kind, clients in PHASES:
                print(f"{clients} clients, {kind}, {phase_s:.0f} s", flush=True)
                load.prompts = prompts(kind, "page", 0)
                load.resize(clients, at_once=True)
                await load.run_for(phase_s)
            # The load goes on while pictures are taken.
            going_on = asyncio.create_task(load.run_for(600.0))
            for shot in SHOTS:
                await _take(browser, page_url, shot, directory)
            going_on.cancel()
        await browser.close()


@asynccontextmanager
async def _serving() -> AsyncIterator[dict[str, Any]]:
    """`turbospec up` with the default model, on any free ports; what it says of itself."""
    with tempfile.TemporaryDirectory(prefix="turbospec-page-") as run_dir:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "control_service.cli.main", "up", "--json"),
            *("--port", "0", "--metrics-port", "0", "--run-dir", run_dir),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "TURBOSPEC_SERVICE_STORE": ""},
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
            if not line:
                raise RuntimeError("turbospec up did not start; it says why above")
            yield json.loads(line)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)


async def _take(browser: Browser, page_url: str, shot: Shot, directory: Path) -> None:
    context = await browser.new_context(**shot.window)
    page = await context.new_page()
    await page.goto(page_url)
    await page.locator("#step-chart canvas").wait_for(timeout=SHOWN_TIMEOUT_MS)
    # One more answer, so that fonts and sizes have settled.
    await page.wait_for_timeout(2_000)
    scale = shot.window.get("device_scale_factor", 1)
    picture = _small(await page.screenshot(full_page=True), round(shot.height * scale))
    path = directory / f"{shot.name}.png"
    path.write_bytes(picture)
    print(f"{path}: {len(picture) / 1e3:.0f} kB", flush=True)
    await context.close()


def _small(png: bytes, height: int) -> bytes:
    """The upper part of a picture, with as many colours as fit into `BYTES_MAX`."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(height, picture.height)))
    for colours in COLOURS:
        out = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() <= BYTES_MAX:
            return out.getvalue()
    raise ValueError(f"{out.tell()} bytes with {COLOURS[-1]} colours; allowed are {BYTES_MAX}")


if __name__ == "__main__":
    typer.run(main)
