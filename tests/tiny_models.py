"""A pipeline of the real classes, small enough for a test."""

from __future__ import annotations

TINY_CODEC = {"latent_dim": 64, "encoder_hidden_size": 32, "encoder_layers": 1, "decoder_hidden_size": 32,
              "decoder_layers": 1, "codebook_size": 64, "noise_frames": 300}  # fmt: skip
# Of a codec whose tones move: 24 of its channels.
MOVING = {"deviation_registers": (24, 72), "level_memory": 2, "tone_sharpening": 0.3}
TINY_FLOW = {"latent_dim": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 128, "adaln_rank": 8, "time_embedding_dim": 32, "codebook_size": 64}  # fmt: skip
TINY_STYLE = {"vocab_size": 400, "text_hidden_size": 32, "text_num_layers": 1, "text_num_heads": 2,
              "text_intermediate_size": 64, "num_mel_bins": 32, "audio_hidden_size": 32,
              "audio_num_layers": 1, "audio_num_heads": 2, "audio_intermediate_size": 64}  # fmt: skip
CAPTIONS = [
    "medium swing piano trio",
    "bossa nova with nylon guitar",
    "fast bebop sax quartet",
    "slow ballad, muted trumpet",
]


def plucked_clip(seconds: float = 2.0):
    """Plucked tones over a little noise: `(1, 2, samples)` at 48 kHz."""
    import torch

    time = torch.arange(round(seconds * 48_000)) / 48_000
    pluck = torch.exp(-4 * (time % 0.5))
    tones = [sum(0.1 * torch.sin(6.2832 * hz * detune * time) for hz in (110, 220, 330, 523, 784)) * pluck
             for detune in (1.0, 1.001)]  # fmt: skip
    return torch.stack(tones)[None] + 0.01 * torch.randn(1, 2, len(time))


def build_tiny_pipeline(seed: int = 0, codec: dict | None = None, **flow):
    """A pipeline with random weights; every weight is moved off zero, so that every input has an effect."""
    import torch

    from rtjazz_hf import (
        FlowMatchScheduler,
        RealTimeJazzCodec,
        RealTimeJazzCodecConfig,
        RealTimeJazzFlowTransformer,
        RealTimeJazzFlowTransformerConfig,
        RealTimeJazzPipeline,
        RealTimeJazzStyleEncoder,
        RealTimeJazzStyleEncoderConfig,
    )
    from rtjazz_hf.music import LEAD_SHEET_DIM
    from rtjazz_hf.style import train_tokenizer

    torch.manual_seed(seed)
    flow_config = RealTimeJazzFlowTransformerConfig(**{"lead_sheet_dim": LEAD_SHEET_DIM, **TINY_FLOW, **flow})
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**{**TINY_CODEC, **(codec or {})}))
    transformer = RealTimeJazzFlowTransformer(flow_config)
    style_encoder = RealTimeJazzStyleEncoder(RealTimeJazzStyleEncoderConfig(**TINY_STYLE))
    codec.fit_start([plucked_clip()])  # a codec that was never fitted only roars
    with torch.no_grad():
        for parameter in transformer.parameters():
            if not parameter.any():  # outputs and gates start at zero
                parameter.normal_(std=0.05)
        if codec.config.level_memory:
            codec.decoder.level_past.fill_(0.1)
    pipe = RealTimeJazzPipeline(
        codec=codec.eval(),
        transformer=transformer.eval(),
        style_encoder=style_encoder.eval(),
        tokenizer=train_tokenizer(CAPTIONS, vocab_size=400),
        scheduler=FlowMatchScheduler(),
        num_inference_steps=2,
        guidance_scale=1.5,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def adapter_style():
    """The style embedding of `make_adapter`: `(512,)`, of length 1."""
    import torch

    return torch.nn.functional.normalize(torch.arange(1.0, 513.0).sin(), dim=0)


def make_adapter(folder, seed, base_seed=0, style_name=None, rank=4, base_name="tiny", **options):
    """A folder with an adapter of random weights, and the transformer that still has it attached."""
    import torch

    from rtjazz_hf.adapters import adapter_parameters, attach_adapter, save_adapter

    transformer = build_tiny_pipeline(base_seed).transformer
    torch.manual_seed(seed)
    attach_adapter(transformer, rank=rank, alpha=8, **options)
    with torch.no_grad():
        for parameter in adapter_parameters(transformer, show=None):
            parameter.add_(0.2 * torch.randn_like(parameter))
    style, band = (adapter_style(), ("clarinet", "bass")) if style_name else (None, ())
    save_adapter(
        transformer, folder, base_name=base_name, style_embedding=style, style_name=style_name, band=band
    )
    return transformer.eval()
