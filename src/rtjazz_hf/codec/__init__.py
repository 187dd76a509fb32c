"""Audio <-> latents <-> codes."""

from .audio_file import decode_file, encode_file
from .code_file import CodeFile, codec_fingerprint, read_codes, write_codes
from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .losses import mel_loss, pitch_contrast_loss, spectral_loss, waveform_loss
from .modeling_realtime_jazz_codec import (
    CodecDecoderOutput,
    CodecEncoderOutput,
    CodecOutput,
    RealTimeJazzCodec,
)
from .streaming import StreamingState

__all__ = [
    "CodeFile",
    "CodecDecoderOutput",
    "CodecEncoderOutput",
    "CodecOutput",
    "RealTimeJazzCodec",
    "RealTimeJazzCodecConfig",
    "StreamingState",
    "codec_fingerprint",
    "decode_file",
    "encode_file",
    "mel_loss",
    "pitch_contrast_loss",
    "read_codes",
    "spectral_loss",
    "waveform_loss",
    "write_codes",
]
