"""What tests of pages in a browser share."""

from __future__ import annotations

import time

WAIT = 180.0  # seconds for what happens at once on an idle machine


def until(page, expression: str) -> None:
    """Wait for an expression to be true in the page.

    Asked from here: Playwright's own `wait_for_function` asks on the page's frames and timers, which a headless browser
    on a busy machine draws and runs seldom or never.
    """
    end = time.monotonic() + WAIT
    while not page.evaluate(f"Boolean({expression})"):
        if time.monotonic() > end:
            shown = page.evaluate("document.body.innerText")
            raise AssertionError(f"not so after {WAIT:.0f} s: {expression}\nthe page shows:\n{shown}")
        time.sleep(0.05)
