"""Make the pictures of docs/howto/page.md: `python docs/make_screenshots.py`, with the embedded model and Debian's Chromium.

Run it again whenever the page or the embedded model changes.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

FOLDER = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1280, "height": 960}
PATIENCE = 180_000
"""Milliseconds."""
SEED = "7"
SHOWN = ("page-en", "page-en-verify", "page-es-progress")
"""On the page of the docs."""


def serve(home: Path) -> tuple["subprocess.Popen[str]", str]:
    """The service by itself, and where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lienzo", "serve", "--port", "0", "--no-auth"],
        env={**os.environ, "LIENZO_HOME": str(home), "LIENZO_MARK": "full"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"serves at (http://[^,\s]+)", line):
            return process, found[1]
    raise SystemExit("The service did not start.")


def make(browser: Browser, url: str, locale: str, scheme: str, prompt: str, folder: Path) -> None:
    """One visit: asking, the finished picture, its verdict."""
    page = browser.new_page(locale=locale, color_scheme=scheme, viewport=SIZE)
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#seed :is(input, textarea)").fill(SEED)
    page.locator("#generate").click()
    expect(page.locator("#progress img")).to_be_visible(timeout=PATIENCE)
    keep(page.screenshot(), f"page-{locale}-progress")
    shown = page.locator("#details [data-shown]").get_attribute("data-shown")
    expect(page.locator("#cancel")).to_be_disabled(timeout=PATIENCE)
    expect(page.locator("#details img")).to_be_visible()
    page.wait_for_timeout(500)  # the gallery loads
    keep(page.screenshot(), f"page-{locale}")
    picture = folder / f"{locale}.png"
    picture.write_bytes(page.request.get(f"{url}/v1/images/{shown}").body())
    page.get_by_role("tab").nth(1).click()
    page.locator("#verify-picture input[type=file]").set_input_files(picture)
    expect(page.locator("#verify-told [data-outcome]")).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(500)
    keep(page.screenshot(), f"page-{locale}-verify")
    page.close()


def keep(png: bytes, name: str) -> None:
    """As a PNG of few colours, which a screenshot has; if the docs show it."""
    if name not in SHOWN:
        return
    path = FOLDER / f"{name}.png"
    path.write_bytes(png)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        process, url = serve(Path(folder) / "home")
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            make(
                browser,
                url,
                "en",
                "light",
                "a red circle to the left of a blue square on a white background",
                Path(folder),
            )
            make(browser, url, "es", "dark", "tres estrellas amarillas sobre fondo azul", Path(folder))
            browser.close()
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
