"""Debian's chromium, driven by selenium: for tests of pages, and to take a picture of one:

PYTHONPATH=. python -m tests.helpers.browser PAGE.html OUT.png [WIDTH [light|dark]]
"""

import base64
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

_PROGRAMS = ("chromium", "chromedriver")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
_TALLEST = 1300
"""Pixels of a picture's height."""


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


def take_picture(page: Path, out: Path, width: int = 1280, colours: str = "light") -> None:
    """The top of a page as a PNG."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = open_browser(Path(profile))
        try:
            set_screen(browser, width, colours)
            browser.get(page.resolve().as_uri())
            tall = min(browser.execute_script("return document.documentElement.scrollHeight"), _TALLEST)
            clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
            taken = {"format": "png", "captureBeyondViewport": True, "clip": clip}
            out.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", taken)["data"]))
        finally:
            browser.quit()


if __name__ == "__main__":
    source, target, *rest = sys.argv[1:]
    take_picture(Path(source), Path(target), int(rest[0]) if rest else 1280, rest[1] if len(rest) > 1 else "light")
