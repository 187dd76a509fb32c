"""An adapter merged into its base, and weights in fewer bits: the same music, or nothing is written."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import build_tiny_pipeline

from rtjazz_hf import RealTimeJazzPipeline

CONVERSION = Path(__file__).parents[2] / "conversion"


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(CONVERSION))
    try:
        yield {name: importlib.import_module(name) for name in ("merge_adapter", "quantize")}
    finally:
        sys.path.remove(str(CONVERSION))


def play(pipe) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipe("swing", duration=0.6, generator=generator, output_type="latents").latents


class TestMerge:
    @pytest.fixture(scope="class")
    def adapter(self, tiny_pipeline, tmp_path_factory) -> Path:
        peft = pytest.importorskip("peft")
        torch.manual_seed(0)
        config = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        )
        model = peft.get_peft_model(copy.deepcopy(tiny_pipeline.transformer), config)
        folder = tmp_path_factory.mktemp("adapter") / "style"
        model.save_pretrained(folder)
        return folder

    def merge(self, scripts, folder, adapter, out, *more: str) -> int:
        return scripts["merge_adapter"].main(
            [str(folder), str(adapter), "-o", str(out), "--dtype", "float32", *more]
        )

    def test_plays_as_base_with_adapter(self, scripts, tiny_pipeline, tiny_folder, adapter, tmp_path, capsys):
        from peft import PeftModel

        save_file({"style": torch.ones(512)}, adapter / "style_embedding.safetensors")
        assert self.merge(scripts, tiny_folder, adapter, tmp_path / "out") == 0
        assert "parity" in capsys.readouterr().out
        merged = RealTimeJazzPipeline.from_pretrained(tmp_path / "out")
        adapted = RealTimeJazzPipeline.from_pretrained(tiny_folder)
        model = PeftModel.from_pretrained(adapted.transformer, str(adapter))
        adapted.transformer = model.base_model.model.eval()
        assert torch.allclose(play(merged), play(adapted), atol=1e-4)
        assert (play(merged) - play(tiny_pipeline)).abs().max() > 1e-3
        assert (tmp_path / "out" / "style_embedding.safetensors").is_file()

    def test_half_of_it(self, scripts, tiny_folder, adapter, tmp_path):
        for strength in ("1", "0.5"):
            assert self.merge(scripts, tiny_folder, adapter, tmp_path / strength, "--strength", strength) == 0
        base, whole, half = (
            load_file(folder / "transformer" / "model.safetensors")["layers.0.self_attn.q_proj.weight"]
            for folder in (tiny_folder, tmp_path / "1", tmp_path / "0.5")
        )
        assert torch.allclose(half - base, 0.5 * (whole - base), atol=1e-6) and not torch.equal(whole, base)

    def test_another_base_is_refused(self, scripts, adapter, tmp_path, capsys):
        for name, sizes in (("wide", {"hidden_size": 128}), ("deep", {"num_hidden_layers": 3})):
            build_tiny_pipeline(**sizes).save_pretrained(tmp_path / name)
            assert self.merge(scripts, tmp_path / name, adapter, tmp_path / "out") == 1
            assert "was not made for this base" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_merge_that_changes_nothing_or_too_much(
        self, scripts, tiny_folder, adapter, tmp_path, capsys, monkeypatch
    ):
        silent = tmp_path / "silent"
        silent.mkdir()
        (silent / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
        weights = load_file(adapter / "adapter_model.safetensors")
        save_file(
            {name: torch.zeros_like(w) for name, w in weights.items()}, silent / "adapter_model.safetensors"
        )
        assert self.merge(scripts, tiny_folder, silent, tmp_path / "out") == 1
        assert "changes nothing" in capsys.readouterr().err
        monkeypatch.setattr(scripts["merge_adapter"], "LARGEST_DIFFERENCE", -1.0)
        assert self.merge(scripts, tiny_folder, adapter, tmp_path / "out") == 1
        assert "nothing was written" in capsys.readouterr().err and not (tmp_path / "out").exists()

    @pytest.mark.parametrize("strength", ["0", "2.5", "nan"])
    def test_strength(self, scripts, tiny_folder, adapter, tmp_path, strength, capsys):
        assert self.merge(scripts, tiny_folder, adapter, tmp_path / "out", "--strength", strength) == 1
        assert "strength" in capsys.readouterr().err


class TestQuantize:
    @pytest.fixture(scope="class")
    def wide(self, tmp_path_factory) -> Path:
        pytest.importorskip("bitsandbytes")
        folder = tmp_path_factory.mktemp("wide") / "pipeline"
        build_tiny_pipeline(hidden_size=128, intermediate_size=512).save_pretrained(folder)
        return folder

    @pytest.mark.parametrize("precision", ["int8", "nf4"])
    def test_smaller_and_close(self, scripts, wide, tmp_path, precision, capsys):
        out = tmp_path / precision
        assert scripts["quantize"].main([str(wide), "-o", str(out), "--precision", precision]) == 0
        assert "parity" in capsys.readouterr().out
        loaded = RealTimeJazzPipeline.from_pretrained(out)
        assert loaded.transformer.is_quantized and play(loaded).isfinite().all()
        sizes = [(folder / "transformer" / "model.safetensors").stat().st_size for folder in (wide, out)]
        assert sizes[1] < 0.8 * sizes[0]  # at this size much is conditions, which stay whole
        assert "quantization_config" in json.loads((out / "transformer" / "config.json").read_text())

    def test_too_large_an_error(self, scripts, wide, tmp_path, capsys):
        options = [str(wide), "-o", str(tmp_path / "out"), "--precision", "nf4", "--largest-error", "1e-6"]
        assert scripts["quantize"].main(options) == 1
        assert "nothing was written" in capsys.readouterr().err and not list(tmp_path.iterdir())

    def test_twice(self, scripts, wide, tmp_path, capsys):
        assert scripts["quantize"].main([str(wide), "-o", str(tmp_path / "once")]) == 0
        assert scripts["quantize"].main([str(tmp_path / "once"), "-o", str(tmp_path / "twice")]) == 1
        assert "quantised already" in capsys.readouterr().err
