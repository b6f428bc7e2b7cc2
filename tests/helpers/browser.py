"""Debian's chromium, driven by selenium, for tests of pages."""

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("chromium", "chromedriver")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")  # fmt: skip  # a camera that agrees


def missing() -> str:
    """What a browser needs and this machine lacks, or ""."""
    lacking = [name for name in _PROGRAMS if shutil.which(name) is None]
    lacking += [] if importlib.util.find_spec("selenium") else ["selenium"]
    return f"no browser: {', '.join(lacking)} not installed (.ci/run does it)" if lacking else ""


def open_browser(profile: Path) -> Any:
    """A browser with an empty profile; quit it after use."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def set_screen(browser: Any, width: int, colours: str, media: str = "screen") -> None:
    """The screen's width in pixels, and what the reader prefers: light or dark. media: screen or print."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preferred = [{"name": "prefers-color-scheme", "value": colours}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": preferred})


@contextlib.contextmanager
def browser_of_width(width: int) -> Iterator[Any]:
    """A browser with a screen of that width. Skips the test where it cannot be had."""
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = open_browser(Path(profile))
        try:
            set_screen(browser, width, "light")
            yield browser
        finally:
            browser.quit()
