"""ONNX: what onnxruntime plays is what torch plays; nothing is written where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import ROOT, load_script
from tiny_models import MOVING, build_tiny_pipeline

pytest.importorskip("onnxruntime", reason="needs rtjazz-hf[onnx]")
pytest.importorskip("onnxscript", reason="needs rtjazz-hf[onnx]")

RUNTIME = ROOT / "pipelines" / "examples" / "onnx_stream.py"


@pytest.fixture(scope="module")
def script():
    return load_script("export_onnx", "conversion")


@pytest.fixture(scope="module")
def exported(script, tiny_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "tiny"
    # a window of two blocks and a bit: the cache fills and blocks fall out
    options = ["--seconds", "3", "--window-frames", "75", "--tempo", "150", "--chords", "Dm7 | G7"]
    assert script.main([str(tiny_folder), "-o", str(out), *options]) == 0
    return out


class TestParity:
    def test_streams_as_torch_does(self, exported):
        report = load_script("onnx_stream", "pipelines/examples").compare(exported)
        assert (
            report["seconds"] > 2.5 and report["difference"] <= 1e-3 and report["latents_difference"] <= 1e-3
        )

    def test_patches_no_guidance_and_tones_that_move(self, script, tmp_path):
        build_tiny_pipeline(codec=MOVING, patch_size=3, num_style_heads=1).save_pretrained(tmp_path / "patched")
        options = [
            "--seconds",
            "1",
            "--guidance",
            "1",
            "--steps",
            "3",
            "--block-frames",
            "12",
            "--window-frames",
            "24",
        ]
        assert script.main([str(tmp_path / "patched"), "-o", str(tmp_path / "out"), *options]) == 0
        settings = json.loads((tmp_path / "out" / "onnx.json").read_text())
        assert settings["num_inference_steps"] == 3 and settings["cache_blocks"] == 2

    def test_fourier(self, script):
        wave = torch.randn(3, 1024)
        real, imaginary = script.fourier(wave, None, 1024)
        assert torch.allclose(torch.complex(real, imaginary), torch.fft.fft(wave), atol=1e-3)


class TestRuntime:
    def test_needs_neither_torch_nor_the_package(self, exported, tmp_path):
        check = (
            "import runpy, sys; sys.argv[1:] = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__');"
            "assert not {'torch', 'transformers', 'rtjazz_hf'} & set(sys.modules)"
        ).replace("sys.argv[0]", repr(str(RUNTIME)))
        out = tmp_path / "jazz.wav"
        done = subprocess.run(
            [sys.executable, "-c", check, "-", str(exported), "-o", str(out), "--seconds", "4"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with wave.open(str(out)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (48_000, 2, 192_000)

    def test_streams_share_graphs_and_not_their_state(self, exported):
        runtime = load_script("onnx_stream", "pipelines/examples")
        settings, style, sheet = runtime.load_performance(exported)
        graphs = runtime.load_graphs(exported, threads=1)
        noises = [noise for noise, _ in zip(runtime.draw_noise(settings, 1), range(3))]
        block = settings["block_frames"]

        def play(player, index):
            return player.block(noises[index], style, sheet[:, index * block : (index + 1) * block])[0]

        alone = runtime.OnnxStream(graphs, settings)
        want = [play(alone, index) for index in range(3)]
        first, second = (runtime.OnnxStream(graphs, settings) for _ in range(2))
        for index in range(3):
            assert np.array_equal(play(first, index), want[index])
            assert np.array_equal(play(second, index), want[index])


class TestRefusals:
    def test_a_difference_leaves_nothing_behind(self, script, tiny_folder, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(script, "LARGEST_DIFFERENCE", 0.0)
        assert script.main([str(tiny_folder), "-o", str(tmp_path / "out"), "--seconds", "0.5"]) == 1
        assert "nothing was written" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--block-frames", "7"], "block_frames"),
            (["--window-frames", "12", "--block-frames", "24"], "holds no block"),
            (["--guidance", "nan"], "guidance_scale"),
        ],
    )
    def test_settings(self, script, tiny_folder, tmp_path, options, words, capsys):
        assert script.main([str(tiny_folder), "-o", str(tmp_path / "out"), *options]) == 1
        assert words in capsys.readouterr().err

    def test_another_folder_is_left_alone(self, script, tiny_folder, tmp_path, capsys):
        (tmp_path / "notes.txt").write_text("mine")
        assert script.main([str(tiny_folder), "-o", str(tmp_path), "--overwrite"]) == 1
        assert "left alone" in capsys.readouterr().err and (tmp_path / "notes.txt").exists()
