"""Take the pictures of the pages in docs/: python -m docs.screenshots, after ./run.sh has made the demo's run.

Needs requirements-app.txt, selenium, chromium and chromedriver.
"""

import io
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from tests.helpers.browser import browser_of_width

FOLDER = Path(__file__).parent
PHOTO = Path("data/demo/test")


def save(driver, name: str) -> None:
    """Save what the browser shows with 256 colours, a third of the bytes."""
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def app() -> None:
    """The page to try photos on, with an answer."""
    photo = sorted(PHOTO.iterdir())[0]
    with subprocess.Popen(
        [sys.executable, "-m", "src.app", "--port=7871"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and any("Running on" in line for line in iter(process.stdout.readline, ""))
        with browser_of_width(1100) as driver:
            driver.get("http://127.0.0.1:7871")
            while len(driver.find_elements("css selector", "textarea")) < 2:
                time.sleep(0.2)
            driver.find_element("css selector", "input[type=file]").send_keys(str(photo.resolve()))
            while not driver.find_elements("css selector", ".cards img"):
                time.sleep(0.2)
            time.sleep(2)
            driver.set_window_size(1100, 1500)
            save(driver, "app.png")
        process.terminate()


def report() -> None:
    """The report of the run."""
    with browser_of_width(1100) as driver:
        driver.get(Path("runs/demo/report.html").resolve().as_uri())
        driver.set_window_size(1100, 1600)
        save(driver, "report.png")


if __name__ == "__main__":
    app()
    report()
