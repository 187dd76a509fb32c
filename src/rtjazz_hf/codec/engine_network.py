"""
The decoder's network by another engine than torch: from latents to the controls of tones, noise and levels.

What it controls stays with torch: phases are counted in float64, which OpenVINO computes in float32, and Fourier
transforms are slower elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from rtjazz_hf.runtime.graphs import ModuleEngine, NotForEngine

from .lapped import LappedDecoder
from .streaming import StreamingState

if TYPE_CHECKING:
    from .modeling_realtime_jazz_codec import RealTimeJazzCodec

_FRAMES = 6  # of the example


class DecoderNetwork(nn.Module):
    """`LappedDecoder.network`, tensors in and out."""

    def __init__(self, decoder: LappedDecoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """latents (batch, frames, energy_dim), what each block keeps -> features, controls, what each block keeps"""
        state, new = StreamingState(dict(zip(_names(self.decoder), past))), StreamingState()
        return *self.decoder.network(latents, state, new), *new.tensors()


def _names(decoder: LappedDecoder) -> list[str]:
    return [f"block_{index}" for index in range(len(decoder.blocks))]


class EngineNetwork(ModuleEngine):
    """
    `LappedDecoder.network` of one codec, by an engine.

    Raises:
        NotForEngine: The codec, or what the engine makes of it, is not as it should be.
    """

    pays_in_float32 = False

    def __init__(self, codec: RealTimeJazzCodec, engine: str, precision: str = "float32"):
        if not isinstance(codec.decoder, LappedDecoder):
            raise NotForEngine(f"its backbone is {codec.config.backbone!r}; engines take 'lapped'")
        decoder, draw = codec.decoder, torch.Generator().manual_seed(0)
        state = decoder.init_state(2)
        inputs = {"latents": torch.randn(2, _FRAMES, codec.config.energy_dim, generator=draw)}
        inputs |= {name: torch.randn(state[name].shape, generator=draw) for name in _names(decoder)}
        dynamic = {"latents": (0, 1), **dict.fromkeys(_names(decoder), (0,))}
        training = decoder.training
        try:
            super().__init__(decoder, DecoderNetwork(decoder).eval(), engine, inputs, dynamic, precision)
        finally:
            decoder.train(training)

    def network(
        self, latents: torch.Tensor, state: StreamingState, new: StreamingState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LappedDecoder.network`."""
        names = [name for name in state.entries if name.startswith("block_")]
        with self.run({"latents": latents, **{name: state[name] for name in names}}) as results:
            start, control, *kept = (torch.from_numpy(result).clone() for result in results)
        for name, tensor in zip(names, kept, strict=True):
            new[name] = tensor
        return start, control


__all__ = ["DecoderNetwork", "EngineNetwork"]
