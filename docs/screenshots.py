"""Take the pictures of the pages in docs/: python -m docs.screenshots, after ./run.sh has made the demo's run.

Needs requirements-app.txt, selenium, chromium and chromedriver.
"""

import base64
import io
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from tests.helpers.browser import browser_of_width

FOLDER = Path(__file__).parent
PHOTO = Path("data/demo/test")
WIDTH = 1100


def save(driver, name: str, height: int) -> None:
    """Save the top of the page with 256 colours, a third of the bytes."""
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    taken = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    content = driver.execute_cdp_cmd("Page.captureScreenshot", taken)["data"]
    picture = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def app() -> None:
    """The page to try photos on, with an answer."""
    photo = sorted(PHOTO.iterdir())[0]
    with subprocess.Popen(
        [sys.executable, "-m", "src.app", "--port=7871"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and any("Running on" in line for line in iter(process.stdout.readline, ""))
        with browser_of_width(WIDTH) as driver:
            driver.get("http://127.0.0.1:7871")
            while len(driver.find_elements("css selector", "textarea")) < 2:
                time.sleep(0.2)
            driver.find_element("css selector", "input[type=file]").send_keys(str(photo.resolve()))
            while not driver.find_elements("css selector", ".cards img"):
                time.sleep(0.2)
            time.sleep(2)
            save(driver, "app.png", 1300)
        process.terminate()


def report() -> None:
    """The report of the run."""
    with browser_of_width(WIDTH) as driver:
        driver.get(Path("runs/demo/report.html").resolve().as_uri())
        save(driver, "report.png", 1300)


if __name__ == "__main__":
    app()
    report()
