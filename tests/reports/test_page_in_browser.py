"""The page of a run in a real browser, on the width of a desk and of a telephone, in light, dark and print."""

import json
import shutil

import pytest

from src.reports.run_page import write_report
from tests.helpers.browser import missing, open_browser, set_screen
from tests.helpers.made_up_run import made_up_run
from tests.reports.test_page import STRANGE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

OVERFLOWING = """
const wide = document.documentElement.clientWidth;
return [...document.body.querySelectorAll('*')]
  .filter(e => !e.closest('.scroll, svg, pre') || e.matches('.scroll, pre'))
  .filter(e => e.getBoundingClientRect().right > wide + 1 || e.getBoundingClientRect().left < -1)
  .map(e => e.outerHTML.slice(0, 120));
"""
PICTURES = """
return [...document.querySelectorAll('img')].filter(p => !p.complete || !p.naturalWidth || !p.alt.trim()).length
  + [...document.querySelectorAll('svg')].filter(p => !(p.getAttribute('aria-label') || '').trim()).length;
"""
CONTRAST = """
const luminance = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const paper = luminance(getComputedStyle(document.body).backgroundColor);
const words = document.querySelectorAll('p, td, th, dt, dd, a, li, summary, figcaption, h1, h2, h3');
return Math.min(...[...words].map(e => {
  const ink = luminance(getComputedStyle(e).color);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); }));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with everything that strangers can write, warnings among it."""
    names, captions = [f"{i}{STRANGE}" for i in range(3)] + ["n" * 400], [STRANGE, "w" * 400, STRANGE]
    warnings = [f"one caption stands on 60% of the photos: {STRANGE!r}"]
    settings = made_up_run(tmp_path_factory.mktemp("page"), 24, names, captions, warnings=warnings)
    return write_report(settings)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    profile = tmp_path_factory.mktemp("profile")
    driver = open_browser(profile)
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen_and_asks_for_nothing(browser, page, width, colours):
    set_screen(browser, width, colours)
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(page.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(OVERFLOWING) == []
    assert browser.execute_script(PICTURES) == 0
    assert browser.execute_script(CONTRAST) >= 4.5
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # a browser that has just started also loads pages of its own
    asked = [request["request"]["url"] for request in requests if request["documentURL"] == page.as_uri()]
    assert page.as_uri() in asked and all(url == page.as_uri() or url.startswith("data:") for url in asked)


def test_what_strangers_wrote_is_text_and_turns_nothing_around(browser, page):
    set_screen(browser, 1280, "light")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.scripts.length") == 0
    texts = browser.execute_script("return [...document.querySelectorAll('bdi')].map(e => e.textContent)")
    assert STRANGE in texts and f"0{STRANGE}" in texts
    alone = "return [...document.querySelectorAll('bdi')].every(e => getComputedStyle(e).unicodeBidi == 'isolate')"
    assert browser.execute_script(alone)


def test_it_reads_without_script_and_prints_whole(browser, page):
    set_screen(browser, 1280, "light")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page.as_uri())
    headings = [element.text for element in browser.find_elements("tag name", "h2")]
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert headings[2:] == ["Leaderboard", "MOS", "Captions", "Photos", "Training", "Data", "Origin"]
    set_screen(browser, 720, "light", media="print")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.querySelector('nav').offsetHeight") == 0
    folded = "return [...document.querySelectorAll('details > :not(summary)')].every(e => e.offsetHeight > 0)"
    assert browser.execute_script(folded), "what is folded on the screen is on the paper"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 740
