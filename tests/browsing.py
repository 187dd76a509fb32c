"""What tests of pages in a browser share."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

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


def serious_findings(page) -> list[str]:
    """What axe finds of serious and critical barriers in the page as it is shown, a line each.

    Skips where RTJAZZ_NODE_MODULES names no node_modules with axe-core.
    """
    axe = Path(os.environ.get("RTJAZZ_NODE_MODULES", "-")) / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("RTJAZZ_NODE_MODULES names no node_modules with axe-core (npm install axe-core)")
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:120] for node in each['nodes']][:3]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
