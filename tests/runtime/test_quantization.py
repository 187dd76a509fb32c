"""8- and 4-bit weights: close to the whole ones, smaller, and at home in saved pipelines."""

from __future__ import annotations

import pytest
import torch
from tiny_models import build_tiny_pipeline

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.runtime.quantization import quantization_config, quantize, quantized_size

pytest.importorskip("bitsandbytes")

TOLERANCES = {"int8": 0.03, "nf4": 0.3}  # of the mean velocity
SIZES = {"int8": 0.6, "nf4": 0.5}  # of the float32 bytes; at this size much is conditions, which stay whole
WIDE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}


def velocity(transformer, packed=False):
    """One step after a block that was heard."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    config = transformer.config
    cache = transformer.init_cache(1, 24)
    if packed:
        transformer.pack_weights()
    transformer.append_to_cache(randn(1, config.num_channels, 12), cache)
    sheet, style = randn(1, 12, config.lead_sheet_dim).relu(), randn(1, config.style_dim)
    with torch.no_grad():
        style = torch.nn.functional.normalize(style, dim=-1)
        conditions = transformer.prepare_conditions(torch.tensor([0.4]), sheet, style, cache)
        return transformer(randn(1, config.num_channels, 12), conditions=conditions, cache=cache).sample


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_close_and_small(precision, packed):
    whole = build_tiny_pipeline(**WIDE).transformer
    small = quantize(whole, precision)
    expected = velocity(whole)
    error = (velocity(small, packed) - expected).abs().mean() / expected.abs().mean()
    assert 0 < error < TOLERANCES[precision]
    assert small.get_memory_footprint() < SIZES[precision] * whole.get_memory_footprint()
    size, count = quantized_size(small)
    least, most = {"int8": (0.5, 0.56), "nf4": (0.25, 0.35)}[precision]  # of bfloat16's bytes
    assert least < size / (2 * count) < most and quantized_size(whole) == (0, 0)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantised_pipelines_save_and_load(precision, tmp_path):
    pipe = build_tiny_pipeline(**WIDE)
    pipe.quantize(precision)
    pipe.save_pretrained(tmp_path)
    loaded = RealTimeJazzPipeline.from_pretrained(tmp_path)
    assert loaded.transformer.is_quantized
    played = [
        each("swing", duration=0.5, generator=torch.Generator().manual_seed(1), output_type="latents").latents
        for each in (pipe, loaded)
    ]
    assert (played[0] - played[1]).abs().mean() < 0.05 * played[0].abs().mean()


def test_what_cannot_be_is_named():
    transformer = build_tiny_pipeline().transformer
    with pytest.raises(ValueError, match="precision 'int3': choose from int8, nf4"):
        quantize(transformer, "int3")
    with pytest.raises(ValueError, match="quantised already"):
        quantize(quantize(transformer, "int8"), "nf4")
    assert quantization_config(transformer, "nf4").bnb_4bit_compute_dtype == torch.float32
