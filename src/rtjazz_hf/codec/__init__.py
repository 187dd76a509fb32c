"""Audio <-> latents <-> codes."""

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .losses import spectral_loss, waveform_loss
from .modeling_realtime_jazz_codec import (
    CodecDecoderOutput,
    CodecEncoderOutput,
    CodecOutput,
    RealTimeJazzCodec,
)
from .streaming import StreamingState

__all__ = [
    "CodecDecoderOutput",
    "CodecEncoderOutput",
    "CodecOutput",
    "RealTimeJazzCodec",
    "RealTimeJazzCodecConfig",
    "StreamingState",
    "spectral_loss",
    "waveform_loss",
]
