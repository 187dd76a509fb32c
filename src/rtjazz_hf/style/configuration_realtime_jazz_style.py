"""Configuration of the style encoder: a text tower and an audio tower into one space."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from rtjazz_hf.runtime.bundled import BundledMixin
from rtjazz_hf.runtime.configs import PlainConfig


@strict
class RealTimeJazzStyleEncoderConfig(BundledMixin, PlainConfig):
    r"""
    Settings of a [`RealTimeJazzStyleEncoder`]. The defaults are the mini size; see `mini()` and `base()`.

    Args:
        vocab_size (`int`): Entries of the text tower's embedding; at least the tokenizer's.
        text_hidden_size, text_num_layers, text_num_heads, text_intermediate_size (`int`): The text tower.
        max_position_embeddings (`int`): Most tokens of a text.
        pad_token_id (`int`): The token that fills up short texts.
        sampling_rate (`int`): Hz of the audio tower's input.
        n_fft, hop_length (`int`): Samples of an analysis window and between two of them.
        num_mel_bins (`int`): Bands between `min_frequency` and `max_frequency` (Hz).
        audio_hidden_size, audio_num_layers, audio_num_heads, audio_intermediate_size (`int`): The audio
            tower, which runs at a quarter of the spectrogram's rate.
        max_audio_seconds (`float`): Longer clips are cut into windows of this length, whose embeddings are
            averaged.
        projection_dim (`int`): Width of the shared space.
        hidden_act (`str`), layer_norm_eps, dropout, initializer_range (`float`): As in other encoders.
        logit_scale_init_value (`float`): Natural log of the first inverse temperature (CLIP, section 2.5).
        max_logit_scale (`float`): Its upper bound, no log.
    """

    model_type = "realtime_jazz_style"
    bundled_part: ClassVar[str] = "style_encoder"

    vocab_size: int = 2048
    text_hidden_size: int = 192
    text_num_layers: int = 4
    text_num_heads: int = 4
    text_intermediate_size: int = 768
    max_position_embeddings: int = 64
    pad_token_id: int = 0

    sampling_rate: int = 48_000
    n_fft: int = 2048
    hop_length: int = 960
    num_mel_bins: int = 96
    min_frequency: float = 30.0
    max_frequency: float = 16_000.0
    audio_hidden_size: int = 192
    audio_num_layers: int = 3
    audio_num_heads: int = 4
    audio_intermediate_size: int = 768
    max_audio_seconds: float = 10.0

    projection_dim: int = 512
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    dropout: float = 0.0
    initializer_range: float = 0.02
    logit_scale_init_value: float = 2.6592
    max_logit_scale: float = 100.0

    @classmethod
    def mini(cls, **kwargs) -> "RealTimeJazzStyleEncoderConfig":
        """About 4M parameters: part of `rtjazz-mini`."""
        return cls(**kwargs)

    @classmethod
    def base(cls, **kwargs) -> "RealTimeJazzStyleEncoderConfig":
        """About 137M parameters, a text tower of 12 x 768 over 32,000 tokens: part of `rtjazz-base`."""
        base = {
            "vocab_size": 32_000,
            "text_hidden_size": 768,
            "text_num_layers": 12,
            "text_num_heads": 12,
            "text_intermediate_size": 3072,
            "num_mel_bins": 128,
            "audio_hidden_size": 512,
            "audio_num_layers": 8,
            "audio_num_heads": 8,
            "audio_intermediate_size": 2048,
        }
        return cls(**{**base, **kwargs})

    @property
    def frame_rate(self) -> float:
        """Spectrogram frames a second."""
        return self.sampling_rate / self.hop_length

    def validate_architecture(self) -> None:
        """Widths must split into their heads, and the spectrogram must fit under half the sampling rate."""
        for tower in ("text", "audio"):
            width, heads = getattr(self, f"{tower}_hidden_size"), getattr(self, f"{tower}_num_heads")
            if heads < 1 or width % heads:
                raise ValueError(
                    f"{tower}_hidden_size ({width}) must be a multiple of {tower}_num_heads ({heads})."
                )
        if self.num_mel_bins < 1:
            raise ValueError(f"num_mel_bins is {self.num_mel_bins}; it must be at least 1.")
        if not 0 < self.min_frequency < self.max_frequency <= self.sampling_rate / 2:
            raise ValueError(
                "0 < min_frequency < max_frequency <= sampling_rate / 2 must hold, got "
                f"{self.min_frequency}, {self.max_frequency} and {self.sampling_rate} Hz."
            )
        if not 0 < self.hop_length <= self.n_fft:
            raise ValueError(f"hop_length must be in 1..n_fft, got {self.hop_length} and {self.n_fft}.")


__all__ = ["RealTimeJazzStyleEncoderConfig"]
