"""A real control service with real engine sides, and a real Chromium to look at them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.control_process import ControlProcess
from tests.support.engine_server import free_port
from tests.support.stepped_engine import BusyEngine
from tests.support.wait import eventually

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MARKUP_ENGINE = "<img src=x onerror=\"document.title='owned'\"> & 'friends'"
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    assert executable, "chromium is not installed; make setup-test installs it"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_FLAGS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    directory = tmp_path_factory.mktemp("service")
    # The same port after a restart, so that an open page finds the service again.
    process = ControlProcess(directory, metrics_listen=f"127.0.0.1:{free_port()}")
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def engines(service: ControlProcess) -> Iterator[list[BusyEngine]]:
    """Two under load; the second has a name that is markup."""
    made = [BusyEngine(service.address, engine_id) for engine_id in ("engine-a", MARKUP_ENGINE)]
    for engine in made:
        engine.start()
    yield made
    for engine in made:
        engine.stop()


class Screen:
    """One open page, and what its console said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: object) -> None:
        if getattr(message, "type", "") in ("error", "warning"):
            self.complaints.append(getattr(message, "text", ""))

    def open(self, url: str) -> Screen:
        self.page.goto(url)
        self.page.locator("#engine").wait_for()
        return self

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait(self, expression: str) -> None:
        """Until a JavaScript expression is true. Playwright's own way is against the page's policy."""
        assert eventually(lambda: bool(self.page.evaluate(expression)), WAIT_MS / 1e3), expression


@pytest.fixture
def screen(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Screen]:
    """A page in a window of its own; `request.param`: what the window is like."""
    context = browser.new_context(**getattr(request, "param", {}))
    yield Screen(context.new_page())
    context.close()
