"""Discriminators for the adversarial part of codec training: is this a recording, or a round trip of one?

Each takes audio (batch, 2, samples) and gives, for every sub-discriminator, its logits and the feature maps that
lead to them. They are needed in training only and are no part of the saved codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .transforms import constant

SLOPE = 0.2

Judgement = tuple[torch.Tensor, list[torch.Tensor]]


def judge(x: torch.Tensor, layers: nn.ModuleList, post: nn.Module) -> Judgement:
    """The logits of `post`, and what each layer gave on the way to it."""
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        features.append(x)
    return post(x), features


class STFTDiscriminator(nn.Module):
    """One resolution: 2-d convolutions over the complex spectrogram of both channels (Defossez et al., 2022, 3.4).

    Args:
        n_fft (`int`): window length in samples; the hop is a quarter of it.
        num_filters (`int`): channels of all but the first and the last layer.
    """

    def __init__(self, n_fft: int, num_filters: int = 16, dilations: Sequence[int] = (1, 2, 4)):
        super().__init__()
        self.n_fft = n_fft

        def conv(inputs: int, outputs: int, kernel: tuple[int, int], stride=(1, 1), dilation=(1, 1)):
            padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation))
            return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation))

        self.layers = nn.ModuleList([conv(4, num_filters, (3, 9))])
        self.layers += [conv(num_filters, num_filters, (3, 9), (1, 2), (d, 1)) for d in dilations]
        self.layers.append(conv(num_filters, num_filters, (3, 3)))
        self.post = conv(num_filters, 1, (3, 3))

    def forward(self, audio: torch.Tensor) -> Judgement:
        """audio (batch, 2, samples) -> logits (batch, 1, frames, bins), feature maps of the same kind."""
        window = constant("hann_window", self.n_fft, device=audio.device)
        # The transform in float32, whatever the convolutions compute in.
        spectrum = torch.stft(
            audio.float().flatten(0, 1), self.n_fft, self.n_fft // 4, window=window, return_complex=True
        )
        x = torch.view_as_real(spectrum).unflatten(0, audio.shape[:2])  # (batch, 2, bins, frames, re/im)
        x = x.permute(0, 1, 4, 3, 2).flatten(1, 2)  # (batch, 4, frames, bins)
        # The power of a hearing loudness: without it, what is loud is all that convolutions see.
        x = x * (x[:, 0::2].square() + x[:, 1::2].square() + 1e-10).pow(-0.35).repeat_interleave(2, dim=1)
        return judge(x, self.layers, self.post)


class PeriodDiscriminator(nn.Module):
    """Samples folded at one period, each column for itself (Kong et al., 2020, 2.3); mid and side as channels.

    Args:
        period (`int`): in samples of the audio at half its rate: what repeats above 12 kHz is noise.
    """

    def __init__(self, period: int, num_filters: int = 8):
        super().__init__()
        self.period = period
        sizes = [2, num_filters, 2 * num_filters, 4 * num_filters, 4 * num_filters]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0))) for a, b in pairwise(sizes)
        )
        self.post = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: torch.Tensor) -> Judgement:
        """audio (batch, 2, samples) -> logits (batch, 1, rows, period), feature maps."""
        x = F.avg_pool1d(torch.stack([audio.sum(1), audio[:, 0] - audio[:, 1]], dim=1), 2)
        x = F.pad(x, (0, -x.shape[-1] % self.period)).unflatten(-1, (-1, self.period))
        return judge(x, self.layers, self.post)


class CodecDiscriminator(nn.Module):
    """Several resolutions of the STFT, and several periods where asked for, judged side by side.

    Args:
        n_ffts: windows of the STFT discriminators.
        periods: of the period discriminators; none by default.
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (2048, 1024, 512),
        periods: Sequence[int] = (),
        num_filters: int = 16,
    ):
        super().__init__()
        if not n_ffts and not periods:
            raise ValueError("a discriminator needs at least one STFT window or one period, got neither.")
        self.parts = nn.ModuleList(STFTDiscriminator(n_fft, num_filters) for n_fft in n_ffts)
        self.parts += [PeriodDiscriminator(period, num_filters) for period in periods]

    def forward(self, audio: torch.Tensor) -> list[Judgement]:
        """audio (batch, 2, samples) -> (logits, feature maps) of each part."""
        return [part(audio) for part in self.parts]


__all__ = ["CodecDiscriminator", "PeriodDiscriminator", "STFTDiscriminator"]
