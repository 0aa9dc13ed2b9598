"""Take the pictures of the page in docs/images, page*.png, from a server that runs with the model and the indexes.

    python -m llm serve &
    python docs/draw_page.py http://127.0.0.1:8000

Needs Playwright's Python package and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parent / "images"
BEGINNING = 'import os\nimport sys\n\ndef read_file(path):\n    """'
LICENSE = "Permission to use, copy, modify, and distribute this software and its documentation for any purpose"


def open_page(browser: Any, url: str, width: int, height: int, scheme: str) -> Any:
    """The page in a window of its own."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(url)
    return page


def write(page: Any, beginning: str, n_tokens: int) -> None:
    """Continue a beginning, and wait until it is written."""
    page.locator("#settings").evaluate("settings => { settings.open = true; }")
    page.fill("#seed", "3")
    page.fill("#max_tokens", str(n_tokens))
    page.fill("#beginning", beginning)
    page.click("#continue")
    page.locator("#write-status", has_text="token").wait_for()


def main(url: str) -> None:
    """Take them."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = open_page(browser, url, 1200, 920, "light")
        write(page, BEGINNING, 96)
        page.locator(".token:not([hidden])").nth(14).hover()
        page.screenshot(path=IMAGES / "page.png")

        page = open_page(browser, url, 1200, 920, "dark")
        write(page, LICENSE, 24)
        page.check("[name=view][value=sources]")
        page.locator(".span").first.click()
        page.screenshot(path=IMAGES / "page_sources.png")

        page = open_page(browser, url, 390, 844, "light")
        page.click("#tab-search")
        page.fill("#query", '"context manager" exception')
        page.keyboard.press("Enter")
        page.locator("#found li").first.wait_for()
        page.mouse.move(0, 0)
        page.screenshot(path=IMAGES / "page_phone.png")


if __name__ == "__main__":
    main(sys.argv[1])
