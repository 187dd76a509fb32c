"""Play a built page in headless Chromium, and say how it does: one line of JSON.

    python pipelines/browser/measure.py site/ --seconds 60            # needs chromium, playwright, rtjazz-hf[onnx]

`first_sound`: seconds from the click until sound goes out, the model being there. `gaps`: by the worklet's count.
`factor`: seconds that a second of music takes by the clock; `cpu`: processor seconds that it takes, of the worker that
makes the sound and of the one that writes the notes (Linux). `latents`: largest difference of the first blocks to
`page_stream.py`'s, which plays the same graphs with onnxruntime, and `share`, root mean square, of their deviation.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
from page_band import PageBand
from page_stream import PageStream, load_model

WISHES = {
    "prompt": "medium swing piano trio",
    "chords": "Dm7 | G7 | Cmaj7 | Am7",
    "tempo": 132,
    "seed": 1,
}  # the page's
COMPARED = 6  # blocks


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def worker_seconds() -> dict[str, float]:
    """Processor seconds of every worker thread of a Chromium on this machine, by its place in /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # it has ended
            continue
        if "(DedicatedWorker" in text:
            user, system = text[text.rindex(")") + 2 :].split()[11:13]
            found[str(path)] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found


def measure(page, seconds: float) -> dict:
    """Play for so long; what the page counts, and the latents of its first blocks."""
    page.evaluate(
        "() => { rtjazz.heard = []; rtjazz.onblock = ({ latents }) => {"
        f" if (rtjazz.heard.length < {COMPARED}) rtjazz.heard.push([...latents]); }}; }}"
    )
    page.click("#play")
    page.wait_for_function("rtjazz.blocks > 1")  # the model is there
    page.click("#play")
    page.wait_for_function("rtjazz.state === 'stopped'")
    page.evaluate("() => { rtjazz.heard = []; }")
    before = worker_seconds()
    page.click("#play")
    page.wait_for_function("rtjazz.firstSound !== null")
    played, gaps = page.evaluate("[rtjazz.played, rtjazz.gaps]")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        page.wait_for_timeout(500)
    counts = page.evaluate("({...rtjazz, heard: rtjazz.heard, onblock: null})")
    spent = sorted((now - before.get(name, 0.0) for name, now in worker_seconds().items()), reverse=True)
    made = counts["blocks"] * counts["blockSeconds"]
    return {
        "first_sound": round(counts["firstSound"], 3),
        "seconds": round((counts["played"] - played) / 48000, 2),
        "gaps": counts["gaps"] - gaps,
        "slow": counts["slow"],
        "factor": round(counts["factor"], 3),
        "cpu": [round(each / made, 3) for each in spent[:2]],
        "load": counts["loaded"],
        "megabytes": round((counts["fetchedBytes"] or 0) / 1e6, 1),
        "heard": counts["heard"],
    }


def difference(model: Path, heard: list[list[float]]) -> dict:
    """Of latents that a page made, to the same by onnxruntime."""
    import torch

    from rtjazz_hf.live.engine import draw_noise

    settings, graphs, styles = load_model(model)
    band, stream = PageBand(settings["score_dim"]), PageStream(graphs, settings)
    genre = json.loads(band.wish(json.dumps(WISHES)))["genre"]
    style, frames = styles[settings["genres"].index(genre)][None], settings["block_frames"]
    generator, wanted = torch.Generator().manual_seed(WISHES["seed"]), []
    for _ in heard:
        noise = draw_noise([generator], frames, settings["channels"], "cpu", settings["init_noise_sigma"])
        wanted.append(stream.block(noise.numpy(), style, band.block(frames)[0][None])[1].reshape(-1))
    error = np.float32(heard) - np.stack(wanted)
    share = np.sqrt(np.square(error).mean()) / np.stack(wanted).std()
    return {"latents": round(float(np.abs(error).max()), 5), "share": round(float(share), 5)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=Path, help="folder of build.py")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    handler = functools.partial(Quiet, directory=str(args.site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=["--no-sandbox"],
        )
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        report = measure(page, args.seconds)
        report["browser"] = browser.version
        browser.close()
    report |= difference(args.site / "model", report.pop("heard"))
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
