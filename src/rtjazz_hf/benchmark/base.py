"""`rtjazz-base` with random weights: the published size, to be timed before anybody has trained it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

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


def save_base_pipeline(
    folder: str | Path, mini: str = "rtjazz-mini", seed: int = 0, size: str = "base"
) -> Path:
    """Write a pipeline of the base configurations with random weights, about 296M parameters, as a folder.

    Weights are bfloat16, the codec's float32. Tokenizer and defaults of generation (steps, guidance, block, window)
    are those of `mini`: they are what base will be shipped with until it has its own.

    Args:
        mini: bundled name, folder or Hub id. size: "base", or "mini" for something small.

    Raises:
        OSError, ValueError: `mini` does not load.
    """
    like = RealTimeJazzPipeline.from_pretrained(mini, engine="torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = RealTimeJazzCodec(getattr(RealTimeJazzCodecConfig, size)())
        transformer = RealTimeJazzFlowTransformer(getattr(RealTimeJazzFlowTransformerConfig, size)())
        style_encoder = RealTimeJazzStyleEncoder(getattr(RealTimeJazzStyleEncoderConfig, size)())
        for model in (codec, transformer, style_encoder):
            _leave_zero(model)
    pipe = RealTimeJazzPipeline(
        codec=codec.eval(),
        transformer=transformer.to(torch.bfloat16).eval(),
        style_encoder=style_encoder.to(torch.bfloat16).eval(),
        tokenizer=like.tokenizer,
        scheduler=FlowMatchScheduler.from_config(like.scheduler.config),
        **like.generation_defaults,
    )
    pipe.save_pretrained(folder)
    return Path(folder)


@torch.no_grad()
def _leave_zero(model: nn.Module) -> None:
    # Gates and outputs start at zero: what flows must look like what flows in a trained model, not be zeros.
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
