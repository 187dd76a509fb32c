"""A small model made large: it plays what it played, and its copies part when they learn."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from rtjazz_hf import RealTimeJazzPipeline

CONVERSION = Path(__file__).parents[2] / "conversion"
LARGE = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(CONVERSION))
    try:
        yield importlib.import_module("grow_flow")
    finally:
        sys.path.remove(str(CONVERSION))


@pytest.fixture(scope="module")
def grown(script, tiny_pipeline):
    return script.grow_flow(tiny_pipeline.transformer, seed=1, **LARGE)


def inputs(config, frames=12):
    chance = torch.Generator().manual_seed(4)
    sample = torch.randn(2, config.num_channels, frames, generator=chance)
    sheet = torch.rand(2, frames, config.feature_dim, generator=chance)
    style = torch.nn.functional.normalize(torch.randn(2, config.style_dim, generator=chance), dim=-1)
    return sample, sheet, style


class TestFlow:
    def test_the_velocity_is_the_same(self, tiny_pipeline, grown):
        small = tiny_pipeline.transformer
        sample, sheet, style = inputs(small.config)
        with torch.no_grad():
            wanted, found = (model(sample, 0.3, sheet, style).sample for model in (small, grown))
        assert wanted.std() > 0.01
        assert torch.allclose(found, wanted, atol=1e-4)
        sizes = {name: getattr(grown.config, name) for name in LARGE}
        assert sizes == LARGE and grown.config.patch_size == small.config.patch_size

    def test_copies_part_and_what_is_new_learns(self, script, tiny_pipeline):
        model = script.grow_flow(tiny_pipeline.transformer, seed=1, **LARGE).train()
        sample, sheet, style = inputs(model.config)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(sample, 0.3, sheet, style).sample.square().mean().backward()
        silent = model.layers[1 if script.layer_plan(2, 3)[1][1] else 2].self_attn.o_proj
        assert not silent.weight.any() and silent.weight.grad.any()
        optimizer.step()
        first, second = model.input_proj.weight.chunk(2)
        assert not torch.equal(first, second)

    @pytest.mark.parametrize(
        ("sizes", "words"),
        [
            ({"hidden_size": 64, "num_hidden_layers": 2}, "as large already"),
            ({"hidden_size": 96, "num_attention_heads": 3}, "multiple of the 64"),
            ({"hidden_size": 128, "num_attention_heads": 2}, "give 4 heads"),
            ({"hidden_size": 128, "num_hidden_layers": 1}, "never shrinks"),
        ],
        ids=["as-large", "no-multiple", "heads", "shrinks"],
    )
    def test_what_cannot_be(self, script, tiny_pipeline, sizes, words):
        with pytest.raises(ValueError, match=words):
            script.grow_flow(tiny_pipeline.transformer, **sizes)


class TestTextTower:
    def test_words_mean_the_same(self, script, tiny_pipeline):
        small = tiny_pipeline.style_encoder
        large = script.grow_text_tower(small, layers=3, hidden_size=128, heads=4)  # heads of 16, then of 32
        tokens = tiny_pipeline.tokenizer(
            ["slow ballad", "fast bebop quartet"], return_tensors="pt", padding=True
        )
        with torch.no_grad():
            wanted, found = (
                model.encode_text(tokens["input_ids"], tokens["attention_mask"]) for model in (small, large)
            )
            audio = torch.randn(1, 2, 24_000, generator=torch.Generator().manual_seed(0))
            assert torch.equal(large.encode_audio(audio), small.encode_audio(audio))
        assert torch.allclose(found, wanted, atol=1e-5)

    def test_what_cannot_be(self, script, tiny_pipeline):
        for sizes in ({"hidden_size": 48, "heads": 3}, {"hidden_size": 64, "heads": 8}):
            with pytest.raises(ValueError, match="multiple of 32"):
                script.grow_text_tower(tiny_pipeline.style_encoder, layers=2, **sizes)
        with pytest.raises(ValueError, match="already"):
            script.grow_text_tower(tiny_pipeline.style_encoder, layers=0, hidden_size=64, heads=2)


class TestScript:
    SIZES = ("--hidden-size", "128", "--layers", "3", "--heads", "4", "--intermediate-size", "192")
    TEXT = ("--text-layers", "2", "--text-hidden-size", "64", "--text-heads", "4")

    def test_a_pipeline_that_plays_the_same(self, script, tiny_folder, tmp_path, capsys):
        out = tmp_path / "large"
        assert script.main([str(tiny_folder), "-o", str(out), *self.SIZES, *self.TEXT]) == 0
        assert "parity" in capsys.readouterr().out
        large, small = (RealTimeJazzPipeline.from_pretrained(folder, engine="torch") for folder in (out, tiny_folder))
        clips = []
        for pipe in (large, small):
            pipe.set_progress_bar_config(disable=True)
            generator = torch.Generator().manual_seed(3)
            clips.append(pipe("swing", duration=0.6, generator=generator, output_type="latents").latents)
        assert torch.allclose(*clips, atol=1e-3)
        assert large.transformer.config.hidden_size == 128
        # once more to the same sizes: nothing is left to grow, and nothing is written
        assert script.main([str(out), "-o", str(tmp_path / "again"), *self.SIZES, *self.TEXT]) != 0
        assert "as large already" in capsys.readouterr().err and not (tmp_path / "again").exists()
