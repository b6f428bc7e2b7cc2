"""Chromium without a window, for tests of pages."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

_OPTIONS = ["headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
_OPTIONS += ["disable-background-networking", "disable-component-update"]


@contextlib.contextmanager
def browser_of_width(width: int) -> Iterator:
    """A Selenium driver; its console's messages are in get_log("browser"). Skips the test where it cannot be had."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for option in (*_OPTIONS, f"window-size={width},1000", f"user-data-dir={profile}"):
            options.add_argument(f"--{option}")
        opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            yield opened
        finally:
            opened.quit()
