"""Audio <-> latents <-> codes."""

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .losses import pitch_contrast_loss, spectral_loss, waveform_loss
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
    "pitch_contrast_loss",
    "spectral_loss",
    "waveform_loss",
]
