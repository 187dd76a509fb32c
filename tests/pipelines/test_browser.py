"""The page that plays in a browser: its Python gives what the package gives, its numbers are torch's, its graphs the
model's; and, where a browser and npm's packages are, it plays."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import WAIT, serious_findings, until
from scripts import ROOT, load_script
from tiny_models import build_tiny_pipeline

from rtjazz_hf.music import LEAD_SHEET_DIM
from rtjazz_hf.music.score_features import SCORE_DIM

FOLDER = ROOT / "pipelines" / "browser"
WISHES = (
    {
        "prompt": "medium swing quartet with tenor sax",
        "chords": "Dm7 | G7 | Cmaj7 | %",
        "tempo": 132,
        "seed": 3,
    },
    {"prompt": "jazz waltz", "chords": "5/4 Am7 | D7 | Gmaj7 N.C. | %", "seed": 5},
    {"prompt": "bossa nova", "seed": 2, "instruments": ["-piano"]},
)
# Features of a few blocks, a change among them, a line a block: run with numpy, and with what stands in for it.
PLAY = """
import json, sys
import numpy, page_band
for wishes in json.loads(sys.argv[1]):
    band = page_band.PageBand(int(sys.argv[2]))
    print(band.wish(json.dumps(wishes)))
    for number in range(4):
        if number == 2:
            print(band.wish(json.dumps({**wishes, "tempo": 150, "chords": "Fm7 | Bb7"})))
        told, info = band.block(36)
        print(info, told.tolist())
print(numpy.__file__)
"""


@pytest.fixture(scope="module")
def score_zip(tmp_path_factory) -> Path:
    return load_script("score_files", "pipelines/browser").write_score_zip(
        tmp_path_factory.mktemp("score") / "score.zip"
    )


def told_by(*path) -> list[str]:
    code = f"import sys; sys.path[:0] = {[str(each) for each in path]!r}\n{PLAY}"
    arguments = [sys.executable, "-c", code, json.dumps(WISHES), str(SCORE_DIM)]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()


class TestBand:
    def test_a_page_is_told_what_the_package_tells(self, score_zip):
        *page, numpy_of_page = told_by(score_zip)
        *package, numpy_of_package = told_by(ROOT / "src", FOLDER)
        assert str(score_zip) in numpy_of_page and str(score_zip) not in numpy_of_package
        assert page == package

    def test_a_chart_that_does_not_parse_is_refused_at_its_bar(self):
        band = load_script("page_band", "pipelines/browser").PageBand(SCORE_DIM)
        with pytest.raises(ValueError, match="bar 2 of the chart: unknown chord 'H9x'"):
            band.wish(json.dumps({"chords": "Dm7 | H9x | C"}))
        with pytest.raises(ValueError, match="cannot wish for colour"):
            band.wish(json.dumps({"colour": "blue"}))
        shown = json.loads(band.wish(json.dumps({"chords": "Dm7 | G7", "tempo": 132})))
        assert shown["bars"] == [["Dm7"], ["G7"]] and band.block(12)[0].shape == (
            12,
            LEAD_SHEET_DIM + SCORE_DIM,
        )

    def test_a_change_keeps_the_place_in_the_bar(self):
        band = load_script("page_band", "pipelines/browser").PageBand(0)
        band.wish(json.dumps({"chords": "Dm7 | G7 | C | %", "tempo": 100}))
        for _ in range(5):
            band.block(36)
        before = band.sheet.position(band.frame / 75)
        band.wish(json.dumps({"chords": "Dm7 | G7 | C | %", "tempo": 180}))  # the same tune goes on
        after = band.sheet.position(band.frame / 75)
        assert (after.bar, after.beat) == (before.bar, pytest.approx(before.beat))
        band.wish(json.dumps({"chords": "Fm7 | Bb7", "tempo": 180}))
        top = band.sheet.position(band.frame / 75)
        assert top.bar == 1 and top.beat == pytest.approx(before.beat)


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's JavaScript (node)")
def test_noise_is_that_of_torch(tmp_path):
    shutil.copy(FOLDER / "page" / "noise.js", tmp_path / "noise.mjs")
    (tmp_path / "draw.mjs").write_text(
        "import { Noise } from './noise.mjs';\n"
        "const noise = new Noise(4294967303);\n"
        "console.log(JSON.stringify([[...noise.block(6, 12, 0.75)], [...noise.block(5, 5, 1)]]));\n"
    )
    drawn = json.loads(
        subprocess.run(["node", tmp_path / "draw.mjs"], capture_output=True, check=True).stdout
    )
    generator = torch.Generator().manual_seed(4294967303)
    for numbers, (channels, frames), sigma in zip(drawn, ((6, 12), (5, 5)), (0.75, 1.0)):
        want = sigma * torch.randn((frames, channels), generator=generator).T
        assert torch.allclose(torch.tensor(numbers).reshape(channels, frames), want, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_weights_are_widened_to_what_their_bits_can_say(bits, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs rtjazz-hf[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs rtjazz-hf[onnx]")
    for name in ("onnx_int8", "export_onnx"):
        load_script(name, "conversion")
    load_script("page_stream", "pipelines/browser")
    script = load_script("export_browser", "conversion")
    weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    make, tensor = onnx.helper, onnx.TensorProto.FLOAT
    graph = make.make_graph(
        [make.make_node("MatMul", ["weight", "x"], ["y"])], "product",
        [make.make_tensor_value_info("x", tensor, [256, 256])], [make.make_tensor_value_info("y", tensor, [256, 256])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    path = tmp_path / "product.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=9), path)
    script.shrink(path, *([bits, re.compile("weight")] if bits < 16 else []))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (wide,) = session.run(None, {"x": np.eye(256, dtype=np.float32)})
    step = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(wide - weight) <= (0.51 * step if bits < 16 else 1e-3 * np.abs(weight) + 1e-6)).all()
    assert path.stat().st_size < weight.size * bits / 8 + 4096


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime", reason="needs rtjazz-hf[onnx]")
    pytest.importorskip("onnxscript", reason="needs rtjazz-hf[onnx]")
    for name in ("onnx_int8", "export_onnx"):
        load_script(name, "conversion")
    load_script("page_stream", "pipelines/browser")
    script = load_script("export_browser", "conversion")
    folder = tmp_path_factory.mktemp("page")
    build_tiny_pipeline(score_dim=SCORE_DIM).save_pretrained(folder / "pipeline")
    options = [
        "--guidance",
        "1",
        "--window-frames",
        "75",
        "--seconds",
        "2",
        "--float",
    ]  # exact enough to compare
    assert script.main([str(folder / "pipeline"), "-o", str(folder / "model"), *options]) == 0
    return folder


@pytest.mark.slow
class TestGraphs:
    def test_they_play_as_the_model_does(self, exported):
        settings = json.loads((exported / "model" / "model.json").read_text())
        graphs = (exported / "model" / f"{name}.onnx" for name in ("conditions", "flow", "codec_decoder"))
        assert all(settings["files"][path.name]["bytes"] == path.stat().st_size for path in graphs)
        assert settings["score_dim"] == SCORE_DIM and settings["genres"]

    def test_guidance_is_refused(self, exported, capsys):
        script = sys.modules["export_browser"]
        assert script.main([str(exported / "pipeline"), "-o", str(exported / "other")]) == 1
        assert "--guidance 1" in capsys.readouterr().err


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(exported, tmp_path):
    modules = os.environ.get("RTJAZZ_NODE_MODULES")
    if not modules:
        pytest.skip(
            "RTJAZZ_NODE_MODULES names no node_modules with onnxruntime-web and pyodide (build.py fetches them)"
        )
    script = load_script("build", "pipelines/browser")
    options = ["--exported", str(exported / "model"), "--node-modules", modules]
    assert script.main(["-o", str(tmp_path / "site"), *options]) == 0
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", tmp_path / "site"
    server.shutdown()


@pytest.mark.slow
class TestPage:
    def test_it_plays_and_follows(self, browser, site, exported):
        url, _ = site
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.set_default_timeout(WAIT * 1000)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.evaluate(
            "() => { rtjazz.heard = []; rtjazz.onblock = ({latents}) => { rtjazz.heard.push([...latents]); }; }"
        )
        page.click("#play")
        until(page, "rtjazz.played > 48000 && rtjazz.chord === 'Dm7'")
        latents = np.array(page.evaluate("rtjazz.heard.slice(0, 2)"), np.float32)
        assert np.abs(latents - played_here(exported / "model", 2)).max() <= 1e-2
        page.fill("#chords", "Am7 | H9x")
        until(page, "rtjazz.errors === 1")
        assert "bar 2" in page.text_content("#status")
        page.fill("#chords", "Am7 | D7")
        until(page, "rtjazz.chord === 'D7'")
        page.uncheck("#players input >> nth=0")
        until(page, "document.querySelectorAll('#players input:not(:checked)').length === 1")
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.path().stat().st_size > 48000 * 4
        page.click("#play")
        assert page.evaluate("rtjazz.state") == "stopped" and problems == []
        page.close()

    def test_a_broken_cache_is_mended_and_no_worklet_is_said(self, browser, site):
        url, folder = site
        page = browser.new_page()
        page.set_default_timeout(WAIT * 1000)
        page.goto(url)
        page.evaluate(
            "caches.open('rtjazz-model-1').then((c) => c.put(new URL('model/flow.onnx', location), new Response('x')))"
        )
        page.evaluate("window.AudioWorkletNode = undefined")
        page.click("#play")
        until(page, "rtjazz.blocks > 2 && rtjazz.played > 0")
        assert page.evaluate("rtjazz.mended") == ["flow.onnx"]
        page.close()
        (folder / "model" / "flow.onnx").write_bytes(b"x")
        page = browser.new_page()
        page.goto(url)
        page.evaluate("caches.delete('rtjazz-model-1')")
        page.click("#play")
        until(page, "document.getElementById('status').className === 'error'")
        assert "otherwise than model.json says" in page.text_content("#status")
        page.close()


    def test_it_plays_without_a_connection_once_it_was_there(self, browser, site):
        url, folder = site
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(WAIT * 1000)
        page.goto(url)
        page.click("#play")
        until(page, "rtjazz.blocks > 1")
        context.set_offline(True)
        (folder / "index.html").rename(folder / "away.html")  # nor would the server have it
        page.reload()
        page.click("#play")
        until(page, "rtjazz.blocks > 2 && rtjazz.played > 0 && rtjazz.fetchedBytes === 0")
        page.evaluate("caches.delete('rtjazz-model-1')")
        page.reload()
        page.click("#play")
        until(page, "document.getElementById('status').className === 'error'")
        assert "offline" in page.text_content("#status") and page.is_enabled("#play")
        context.close()

    def test_a_slow_device_says_so_and_renders_ahead(self, browser, site):
        url, _ = site
        context = browser.new_context(service_workers="block")  # else it fetches past the route
        page = context.new_page()
        page.set_default_timeout(WAIT * 1000)
        source = (FOLDER / "page" / "stream.js").read_text()
        head = "async block(noise, style, told) {"
        slow = source.replace(head, f"{head}\n    await new Promise((go) => setTimeout(go, 900));")
        page.route("**/stream.js", lambda route: route.fulfill(body=slow, content_type="text/javascript"))
        page.goto(url)
        page.click("#play")
        until(page, "rtjazz.slow && document.getElementById('status').textContent.includes('cannot keep up')")
        blocks, played = page.evaluate("[rtjazz.blocks, rtjazz.played]")
        until(page, f"rtjazz.blocks > {blocks + 3}")
        assert page.evaluate("rtjazz.played") <= played + 2 * 48000  # what it had; the rest waits in hand
        assert "30 s are rendered ahead" in page.text_content("#status")
        context.close()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_nothing_stands_in_the_way_of_a_screen_reader(self, browser, site, scheme):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
        page.goto(site[0])
        assert serious_findings(page) == []
        page.close()


def played_here(folder: Path, blocks: int) -> np.ndarray:
    """Latents of the page's first blocks, by onnxruntime from the same graphs, wishes and seed."""
    stream_of, band_of = (load_script(name, "pipelines/browser") for name in ("page_stream", "page_band"))
    from rtjazz_hf.live.engine import draw_noise

    settings, graphs, styles = stream_of.load_model(folder)
    band = band_of.PageBand(settings["score_dim"])
    wishes = {
        "prompt": "medium swing piano trio",
        "chords": "Dm7 | G7 | Cmaj7 | Am7",
        "tempo": 132,
        "seed": 1,
    }
    sheet = json.loads(band.wish(json.dumps(wishes)))
    style = styles[settings["genres"].index(sheet["genre"])][None]
    stream, generator, heard = stream_of.PageStream(graphs, settings), torch.Generator().manual_seed(1), []
    for _ in range(blocks):
        told, _ = band.block(settings["block_frames"])
        noise = draw_noise(
            [generator], settings["block_frames"], settings["channels"], "cpu", settings["init_noise_sigma"]
        )
        heard.append(stream.block(noise.numpy(), style, told[None])[1].reshape(-1))
    return np.stack(heard)
