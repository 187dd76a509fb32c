from __future__ import annotations

import copy
import shutil

import pytest
import torch
from flow_models import build_model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def stream(model, blocks=4, frames=12, window_frames=24, device="cpu", cache=None):
    """A few blocks of two guided steps each, from the same noise on every device."""
    generator = torch.Generator().manual_seed(0)
    cache = model.init_cache(1, window_frames) if cache is None else cache
    played = []
    for _ in range(blocks):
        latents, sheet, style = (
            torch.randn(shape, generator=generator).to(device) for shape in ((2, 8, frames), (2, frames, 5), (2, 16))
        )  # fmt: skip
        with torch.no_grad():
            conditions = model.prepare_conditions(torch.tensor([0.0, 0.5]), sheet, style, cache)
            for step in range(2):
                latents = latents + 0.5 * model(latents, conditions=conditions, step=step, cache=cache).sample
            model.append_to_cache(latents[:1], cache, conditions)
        played.append(latents.cpu())
    return torch.cat(played, dim=-1)


def close(first, second, tolerance=1e-5):
    torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


def test_traced_steps_play_the_same():
    model = build_model(num_hidden_layers=2, patch_size=3)
    plain = stream(copy.deepcopy(model))
    model.compile(backend="aot_eager", fullgraph=True)
    close(stream(model), plain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    changed = stream(model)
    model.compile(backend="eager")
    close(changed, stream(model))
    assert not torch.allclose(changed, plain)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_steps_play_the_same(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    model = build_model(num_hidden_layers=1, patch_size=3)
    cache = model.init_cache(1, 12)
    model.append_to_cache(torch.randn(1, 8, 12), cache)  # full, so that one shape is compiled
    plain = stream(copy.deepcopy(model), blocks=2, cache=cache.clone())
    model.compile()
    close(stream(model, blocks=2, cache=cache), plain)


def test_compiling_the_whole_model_plays_the_same():
    model = build_model(num_hidden_layers=1)
    plain = stream(copy.deepcopy(model), blocks=2)
    close(stream(torch.compile(model, backend="eager"), blocks=2), plain)


def test_cuda_graphs_elsewhere_are_refused():
    for options in ({"backend": "cudagraphs"}, {"mode": "reduce-overhead"}):
        with pytest.raises(ValueError, match="need CUDA graphs; the model is on cpu"):
            build_model().compile(**options)


@pytest.mark.parametrize("cached", [True, False])
def test_flash_attention_is_given_what_it_takes(cached, monkeypatch):
    """No mask, and the layout of the library's own kernel; which itself needs a GPU: sdpa stands in for it."""
    shapes = []

    def kernel(module, query, key, value, attention_mask, scaling, **kwargs):
        assert attention_mask is None and key.stride(-1) == value.stride(-1) == 1
        shapes.append(key.shape[2])
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return output.transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", kernel)
    model = build_model(num_hidden_layers=2)
    window = 24 if cached else 0
    plain = stream(model, window_frames=window)
    model.config._attn_implementation = "flash_attention_2"
    close(stream(model, window_frames=window), plain)
    assert max(shapes) == window + 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "options", [{}, {"backend": "cudagraphs"}, {"mode": "reduce-overhead"}], ids=["compile", "graphs", "both"]
)
def test_cuda_steps_play_the_same(options):
    model = build_model(num_hidden_layers=2, patch_size=3)
    plain = stream(copy.deepcopy(model))
    model.cuda().compile(**options)
    for _ in range(2):  # a second stream has buffers of its own
        close(stream(model, device="cuda"), plain, 1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_flash_attention_plays_the_same():
    pytest.importorskip("flash_attn")
    model = build_model(num_hidden_layers=2).to("cuda", torch.bfloat16)

    with torch.autocast("cuda", torch.bfloat16):
        plain = stream(model, device="cuda")
        model.config._attn_implementation = "flash_attention_2"
        torch.testing.assert_close(stream(model, device="cuda"), plain, atol=0.05, rtol=0.05)
