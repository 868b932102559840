"""The page in a real browser: it shows a live service, to everyone, and says when there is none."""

from __future__ import annotations

from functools import partial

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.integration.page.conftest import MARKUP_ENGINE, Screen
from tests.support.control_process import ControlProcess
from tests.support.stepped_engine import BusyEngine
from tests.support.wait import eventually

pytestmark = pytest.mark.usefixtures("engines")

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
LIGHT, DARK = {"color_scheme": "light"}, {"color_scheme": "dark"}
MODELS_READY = "document.querySelectorAll('#forecast-chart canvas, #step-chart canvas').length === 2"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Whatever a keyboard user must be able to reach: what is shown and can be acted on.
REACHABLE = """() => [...document.querySelectorAll('a[href], button, summary, input, [tabindex="0"]')]
  .filter((element) => element.checkVisibility())
  .filter((element) => element.type !== 'radio' || element.checked)
  .map((element) => element.outerHTML)"""
FOCUSED = "() => document.activeElement.outerHTML"
# How many pixels of a chart have about the colour of a CSS variable.
PIXELS = """([figure, name]) => {
  const probe = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
  probe.fillRect(0, 0, 1, 1);
  const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
  const canvas = document.querySelector(`#${figure} canvas`);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  const like = (one, other) => Math.abs(one - other) < 32;
  for (let place = 0; place < data.length; place += 4) {
    count += like(data[place], red) && like(data[place + 1], green) && like(data[place + 2], blue)
      && data[place + 3] > 128;
  }
  return count;
}"""


@pytest.fixture
def opened(screen: Screen, service: ControlProcess) -> Screen:
    screen.open(f"{service.page_url}#engine=engine-a")
    screen.wait(MODELS_READY)
    return screen


def drawn(screen: Screen, figure: str) -> bool:
    pixels: int = screen.page.evaluate(PIXELS, [figure, "--accent"])
    return pixels > 10


def rows_of(screen: Screen, figure: str) -> list[list[str]]:
    """The table behind a chart."""
    details = screen.page.locator(f"#{figure} details.data")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    details.locator("tbody tr").first.wait_for()
    return details.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )


def test_it_shows_a_live_engine_and_goes_on_showing_it(opened: Screen, engines: list[BusyEngine]) -> None:
    assert opened.text("#engine-id") == "engine-a"
    assert opened.text("#headline-text")
    assert float(opened.text("#goodput").replace(",", "")) > 0
    assert "connected" in opened.text("#control-more")
    assert "lease" in opened.text("#control-more")
    assert opened.page.locator("#decisions li").count() > 1

    for figure in ("length-chart", "goodput-chart", "forecast-chart", "acceptance-chart", "step-chart"):
        assert eventually(partial(drawn, opened, figure)), f"nothing is drawn in {figure}"
        assert rows_of(opened, figure)
    assert [row[0] for row in rows_of(opened, "acceptance-chart")][:5] == ["1", "2", "3", "4", "5"]

    newest = rows_of(opened, "length-chart")[0]
    assert int(newest[1]) in (0, 1, 3, 5)
    engines[0].batch_size = 7
    opened.wait(
        "document.querySelector('#length-chart tbody td:nth-of-type(4)').textContent === '7'"
        " && document.querySelector('#why').textContent.startsWith('batch 7')"
    )
    assert rows_of(opened, "length-chart")[0][0] > newest[0]
    engines[0].batch_size = 2
    assert opened.complaints == []


def test_a_name_that_is_markup_is_a_name(opened: Screen) -> None:
    """Chosen by keyboard from the list; the address keeps the choice."""
    link = opened.page.get_by_role("link", name="<img")
    link.focus()
    opened.page.keyboard.press("Enter")
    opened.wait("document.querySelector('#engine-id').textContent.startsWith('<img')")
    assert opened.page.locator("#engine-id").text_content() == MARKUP_ENGINE
    assert opened.page.locator("img").count() == 0
    command = opened.text("#command-shadow")
    assert command == f"turbospec mode {quoted(MARKUP_ENGINE)} shadow"
    opened.page.reload()
    opened.page.locator("#engine").wait_for()
    assert opened.page.locator("#engine-id").text_content() == MARKUP_ENGINE
    # Pages come and go, the choice lives in the history of the browser.
    opened.page.go_back()
    opened.wait("document.querySelector('#engine-id').textContent === 'engine-a'")
    assert opened.complaints == []


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.mark.parametrize("screen", [LIGHT, {**DARK, **PHONE}], indirect=True, ids=["light", "dark phone"])
def test_it_fits_its_window_and_everyone_can_read_it(opened: Screen) -> None:
    for figure in ("length-chart", "step-chart"):
        rows_of(opened, figure)
    opened.page.locator("#totals summary").click()
    found = Axe().run(opened.page, options={"runOnly": RULES})
    assert found.violations_count == 0, found.generate_report()
    width = opened.page.evaluate("document.documentElement.clientWidth")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing sticks out unseen either: only tables may be wider, in regions that scroll.
    assert (
        opened.page.evaluate(
            """width => [...document.querySelectorAll('body *')]
          .filter((element) => element.checkVisibility() && !element.closest('.scroll, .skip, .plot'))
          .filter((element) => element.getBoundingClientRect().right > width + 0.5)
          .map((element) => element.outerHTML.slice(0, 80))""",
            width,
        )
        == []
    )


@pytest.mark.parametrize("screen", [LIGHT], indirect=True)
def test_another_colour_scheme_is_followed_at_once(opened: Screen) -> None:
    before = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.page.emulate_media(color_scheme="dark")
    after = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    assert eventually(lambda: drawn(opened, "length-chart"))


def test_the_keyboard_reaches_everything_and_the_focus_is_seen(opened: Screen) -> None:
    rows_of(opened, "length-chart")
    opened.page.locator("#pause").click()
    wanted = opened.page.evaluate(REACHABLE)
    assert len(wanted) > 12
    opened.page.locator("#skip").focus()
    reached = [opened.page.evaluate(FOCUSED)]
    for _ in wanted[1:]:
        opened.page.keyboard.press("Tab")
        reached.append(opened.page.evaluate(FOCUSED))
        outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"the focus cannot be seen on {reached[-1]}"
    # In the order of the page, which is the order of reading.
    assert reached == wanted

    opened.page.locator("#skip").focus()
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "engine"


def test_the_time_shown_is_chosen_by_keyboard(opened: Screen) -> None:
    opened.page.get_by_role("radio", name="5 min", exact=True).focus()
    opened.page.keyboard.press("ArrowRight")
    assert opened.page.get_by_role("radio", name="15 min").is_checked()
    axis = opened.page.locator("#length-chart .plot").get_attribute("aria-label")
    assert axis is not None
    assert "speculation length" in axis


def count_requests(screen: Screen) -> list[str]:
    seen: list[str] = []
    screen.page.on("request", lambda request: seen.append(request.url))
    return seen


def test_it_asks_nothing_while_paused_or_hidden(opened: Screen) -> None:
    opened.page.get_by_role("button", name="Pause").press("Enter")
    assert opened.page.locator("#pause").get_attribute("aria-pressed") == "true"
    opened.page.wait_for_load_state("networkidle")
    seen = count_requests(opened)
    opened.page.wait_for_timeout(1_500)
    assert seen == []
    opened.page.evaluate("Object.defineProperty(document, 'hidden', { configurable: true, get: () => true })")
    opened.page.get_by_role("button", name="Resume").press("Enter")
    opened.page.wait_for_timeout(1_500)
    assert seen == []
    opened.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    opened.wait("document.querySelector('#freshness').textContent.startsWith('Live')")
    opened.page.wait_for_timeout(1_500)
    assert seen


@pytest.mark.parametrize("screen", [{"reduced_motion": "reduce"}], indirect=True)
def test_who_wants_less_motion_gets_less(opened: Screen) -> None:
    opened.page.wait_for_load_state("networkidle")
    seen = count_requests(opened)
    opened.page.wait_for_timeout(3_000)
    # Once in five seconds; an update is two requests.
    assert len(seen) <= 2
    assert opened.page.evaluate("document.getAnimations().length") == 0


def test_when_the_service_dies_it_says_so_and_when_it_is_back_it_goes_on(
    opened: Screen, service: ControlProcess
) -> None:
    assert opened.page.locator("#banner").is_hidden()
    service.kill()
    banner = opened.page.get_by_role("alert")
    banner.wait_for()
    assert "has not answered since" in banner.inner_text()
    assert "Engines" in banner.inner_text() or "engines do not speculate" in banner.inner_text()
    assert opened.text("#freshness").startswith("Not reached")
    assert "not reached" in opened.page.title()
    service.start()
    opened.wait("document.querySelector('#banner').hidden")
    # The engine has come back to it as well.
    opened.wait("document.querySelector('#control-more').textContent.startsWith('connected')")
    opened.wait("document.querySelector('#headline-text').textContent.length > 0")
