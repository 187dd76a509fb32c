"""Tiny transformers with every path alive, shared by the tests of this folder."""

from __future__ import annotations

import torch

from rtjazz_hf.flow import RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig

TINY = {
    "latent_dim": 8,
    "lead_sheet_dim": 5,
    "style_dim": 16,
    "num_style_tokens": 3,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "adaln_rank": 4,
    "time_embedding_dim": 32,
    "codebook_size": 16,
}


def build_model(seed: int = 0, attention: str | None = None, **kwargs) -> RealTimeJazzFlowTransformer:
    """A tiny model whose gates and outputs are moved off zero, so that every input has an effect."""
    torch.manual_seed(seed)
    config = RealTimeJazzFlowTransformerConfig(**(TINY | kwargs))
    if attention is not None:
        config._attn_implementation = attention
    model = RealTimeJazzFlowTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    if config.prediction_type == "codebook":
        model.set_codebooks(torch.randn(config.num_codebooks, 16, 8) / 2, torch.randn(8) / 4)
    return model.eval()


def build_inputs(model, batch: int = 2, frames: int = 48, blocks: int = 8, seed: int = 1) -> dict:
    """Random inputs by the names of `forward`, and `context`."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "sample": randn(batch, config.num_channels, frames),
        "timestep": 0.9 * torch.rand(batch, blocks, generator=generator),
        "lead_sheet": randn(batch, frames, config.feature_dim),
        "style": torch.nn.functional.normalize(randn(batch, config.style_dim), dim=-1),
        "context": randn(batch, config.num_channels, frames),
    }


def play(model, inputs, block_frames: int, window_frames: int, start_frame: int = 0):
    """The cached path over a whole clip: the velocity of every block, and the cache at the end."""
    cache = model.init_cache(inputs["sample"].shape[0], window_frames, start_frame)
    outputs = []
    with torch.no_grad():
        for index in range(inputs["sample"].shape[-1] // block_frames):
            here = slice(index * block_frames, (index + 1) * block_frames)
            outputs.append(
                model(
                    inputs["sample"][..., here],
                    inputs["timestep"][:, index],
                    inputs["lead_sheet"][:, here],
                    inputs["style"],
                    cache=cache,
                ).sample
            )
            model.append_to_cache(inputs["context"][..., here], cache)
    return torch.cat(outputs, dim=-1), cache
