"""ONNX: what onnxruntime plays is what torch plays; nothing is written where it is not."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import ROOT, load_script
from tiny_models import MOVING, build_tiny_pipeline

from rtjazz_hf import RealTimeJazzPipeline

onnx = pytest.importorskip("onnx", reason="needs rtjazz-hf[onnx]")
pytest.importorskip("onnxruntime", reason="needs rtjazz-hf[onnx]")
pytest.importorskip("onnxscript", reason="needs rtjazz-hf[onnx]")

RUNTIME = ROOT / "pipelines" / "examples" / "onnx_stream.py"


@pytest.fixture(scope="module")
def script():
    load_script("onnx_int8", "conversion")  # which the other imports
    return load_script("export_onnx", "conversion")


# a window of two blocks and a bit: the cache fills and blocks fall out
OPTIONS = ["--seconds", "3", "--window-frames", "75", "--tempo", "150", "--chords", "Dm7 | G7"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Patches, guidance, and tones that move."""
    folder = tmp_path_factory.mktemp("model")
    build_tiny_pipeline(codec=MOVING, patch_size=3, num_style_heads=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(script, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "tiny"
    assert script.main([str(model), "-o", str(out), *OPTIONS]) == 0
    return out


class TestParity:
    def test_streams_as_torch_does(self, exported):
        report = load_script("onnx_stream", "pipelines/examples").compare(exported)
        assert (
            report["seconds"] > 2.5 and report["difference"] <= 1e-3 and report["latents_difference"] <= 1e-3
        )

    @pytest.mark.slow  # another export
    def test_no_patches_no_guidance(self, script, tiny_folder, tmp_path):
        out = tmp_path / "out"
        options = ["--seconds", "1", "--guidance", "1", "--steps", "3", "--block-frames", "12", "--window-frames", "24"]
        assert script.main([str(tiny_folder), "-o", str(out), *options]) == 0
        settings = json.loads((out / "onnx.json").read_text())
        assert settings["num_inference_steps"] == 3 and settings["cache_blocks"] == 2

    def test_fourier(self, script):
        wave = torch.randn(3, 1024)
        real, imaginary = script.fourier(wave, None, 1024)
        assert torch.allclose(torch.complex(real, imaginary), torch.fft.fft(wave), atol=1e-3)


class TestInt8:
    @pytest.fixture(scope="class")
    def small(self, script, exported, model, tmp_path_factory):
        """The export in 8 bits, made of the whole one: graphs take seconds to export."""
        folder = tmp_path_factory.mktemp("int8") / "tiny"
        shutil.copytree(exported, folder)
        pipe = RealTimeJazzPipeline.from_pretrained(model)
        script.quantize_export(folder, json.loads((folder / "onnx.json").read_text()), pipe)
        return folder

    def test_every_product_of_the_layers_has_8_bit_weights(self, exported, small):
        for name in ("flow_step", "flow_append"):
            whole, quantized = (onnx.load(folder / f"{name}.onnx") for folder in (exported, small))
            kinds = [node.op_type for node in quantized.graph.node]
            # of two layers: q, k, v, o, gate, up, down, and the cross-attention's q and o; a finished block has no
            # style, and of the last layer its keys and values alone are asked for
            assert kinds.count("MatMulInteger") == {"flow_step": 18, "flow_append": 10}[name]
            sizes = [sum(len(t.raw_data) for t in model.graph.initializer) for model in (whole, quantized)]
            assert sizes[1] < 0.6 * sizes[0]  # at this size much is input and output, which stay whole

    def test_it_is_measured_and_close(self, small):
        settings = json.loads((small / "onnx.json").read_text())
        assert settings["weights"] == "int8" and 0 < settings["velocity_error"] < 0.05
        runtime = load_script("onnx_stream", "pipelines/examples")
        blocks = [audio for audio, _ in itertools.islice(runtime.stream(small), 3)]
        assert np.isfinite(blocks).all() and 0.001 < np.std(blocks) < 0.5

    def test_one_that_costs_too_much_is_not_written(self, script, exported, tmp_path, monkeypatch):
        monkeypatch.setattr(script, "LARGEST_ERROR", 0.0)
        shutil.copytree(exported, tmp_path / "x")
        with pytest.raises(ValueError, match=r"8-bit weights play differently.*nothing was written"):
            script.quantize_export(tmp_path / "x", {}, None)


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

    def test_one_thread_that_does_not_spin(self, exported):
        for graph in load_script("onnx_stream", "pipelines/examples").load_graphs(exported).values():
            options = graph.get_session_options()
            assert options.intra_op_num_threads == options.inter_op_num_threads == 1
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

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
    def test_a_difference_leaves_nothing_behind(
        self, script, exported, model, tmp_path, monkeypatch, capsys
    ):
        def export(pipe, folder, settings):  # the graphs that are there already: they take seconds to export
            shutil.copytree(exported, folder, dirs_exist_ok=True)

        monkeypatch.setattr(script, "export_graphs", export)
        monkeypatch.setattr(script, "LARGEST_DIFFERENCE", 0.0)
        assert script.main([str(model), "-o", str(tmp_path / "out"), *OPTIONS]) == 1
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
