"""EnCodec's SEANet encoder and decoder (Defossez et al., 2022, section 3.1), causal, with carried state.

The order and the names of the layers are those of transformers' `EncodecModel`, so that its tensors carry
over one by one: `layers.{i}.conv`, `layers.{i}.block.{j}.conv`, `layers.{i}.shortcut.conv` and
`layers.{i}.lstm`. Without an LSTM an `nn.Identity` holds its place in the list. Two things differ, as a
stream has no future:

- the time before the start is silence (zeros), where EnCodec by default reflects the first samples. With
  `pad_mode="constant"` there, both agree everywhere; else they differ near the start, as far as memory goes;
- `norm="layer_norm"` normalises each frame over its channels, and in the residual branches only, where
  EnCodec's `time_group_norm` takes its statistics over a whole segment, in every layer. The trunk keeps the
  level of the sound, so no scale has to be sent beside the codes.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .streaming import CausalConv1d, CausalConvTranspose1d, StreamingState

NORMS = ("weight_norm", "layer_norm", "none")


class SEANetConv1d(CausalConv1d):
    """A causal convolution, with an optional layer norm over the channels of each frame behind it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int, norm: str):
        super().__init__(
            in_channels, out_channels, kernel_size, dilation=dilation, weight_norm=norm == "weight_norm"
        )
        if norm == "layer_norm":
            self.norm = nn.LayerNorm(out_channels)
        else:
            self.norm = nn.Identity()

    def forward(
        self, x: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, state = super().forward(x, state)
        if isinstance(self.norm, nn.LayerNorm):
            y = self.norm(y.transpose(1, 2)).transpose(1, 2)
        return y, state


class SEANetLSTM(nn.Module):
    """A residual LSTM over frames; its state is (batch, layers, channels), hidden and cell."""

    def __init__(self, channels: int, num_layers: int = 2):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers)

    def forward(
        self, x: torch.Tensor, state: StreamingState | None = None
    ) -> tuple[torch.Tensor, StreamingState]:
        """x (batch, channels, frames) -> the same shape, state."""
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.lstm.num_layers, self.lstm.hidden_size)
            state = StreamingState({"hidden": zeros, "cell": zeros.clone()})
        if x.shape[-1] == 0:
            return x, state
        hidden, cell = state["hidden"].transpose(0, 1), state["cell"].transpose(0, 1)
        y, (hidden, cell) = self.lstm(x.permute(2, 0, 1), (hidden.contiguous(), cell.contiguous()))
        state = StreamingState({"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)})
        return y.permute(1, 2, 0) + x, state


class SEANetResidualBlock(nn.Module):
    """ELU, dilated convolution to fewer channels, ELU, 1x1 convolution back, beside a 1x1 shortcut."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilation: int,
        compress: int,
        norm: str,
        use_conv_shortcut: bool,
    ):
        super().__init__()
        hidden = channels // compress
        self.block = nn.ModuleList(
            [
                nn.ELU(),
                SEANetConv1d(channels, hidden, kernel_size, dilation, norm),
                nn.ELU(),
                SEANetConv1d(hidden, channels, 1, 1, norm),
            ]
        )
        if use_conv_shortcut:
            self.shortcut = CausalConv1d(channels, channels, 1, weight_norm=norm == "weight_norm")
        else:
            self.shortcut = nn.Identity()

    def forward(
        self, x: torch.Tensor, state: StreamingState | None = None
    ) -> tuple[torch.Tensor, StreamingState]:
        y, new_state = stream_layers(self.block, x, state)
        if isinstance(self.shortcut, CausalConv1d):
            x, _ = self.shortcut(x)  # 1x1: nothing to remember
        return x + y, new_state


class SEANet(nn.Module):
    """Encoder or decoder (`encodes`): what they are made of, and how they run.

    Args:
        strides (`tuple[int, ...]`): in the order of the *decoder*, as EnCodec's `upsampling_ratios`; the
            encoder goes through them in reverse. (8, 5, 4, 4) makes one frame of 640 samples.
        num_filters (`int`): channels at the audio rate; doubled at each stride.
        norm (`str`): "weight_norm", "layer_norm" (see above) or "none".
        use_lstm (`bool`): `num_lstm_layers` residual LSTM layers at the frame rate.
        use_conv_shortcut (`bool`): 1x1 convolution, or nothing, on the skip path of residual blocks.
        audio_dilation (`int`): of every kernel that slides over samples one by one, on top of its own. With
            2, kernels that were learnt at 24 kHz see the same span of time at 48 kHz.
    """

    encodes: bool

    def __init__(
        self,
        audio_channels: int = 2,
        latent_dim: int = 64,
        num_filters: int = 32,
        strides: tuple[int, ...] = (8, 5, 4, 4),
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_growth: int = 2,
        num_residual_layers: int = 1,
        compress: int = 2,
        use_lstm: bool = False,
        num_lstm_layers: int = 2,
        norm: str = "weight_norm",
        use_conv_shortcut: bool = True,
        audio_dilation: int = 1,
    ):
        super().__init__()
        check_norm(norm)
        self.hop_length = math.prod(strides)
        weight_norm = {"weight_norm": norm == "weight_norm"}

        def residual_blocks(channels: int, at_audio_rate: bool) -> list[nn.Module]:
            dilations = [
                dilation_growth**j * (audio_dilation if at_audio_rate else 1)
                for j in range(num_residual_layers)
            ]
            return [
                SEANetResidualBlock(channels, residual_kernel_size, d, compress, norm, use_conv_shortcut)
                for d in dilations
            ]

        def memory(channels: int) -> nn.Module:
            return SEANetLSTM(channels, num_lstm_layers) if use_lstm else nn.Identity()

        layers: list[nn.Module] = []
        if self.encodes:
            channels = num_filters
            layers += [
                CausalConv1d(audio_channels, channels, kernel_size, dilation=audio_dilation, **weight_norm)
            ]
            for i, stride in enumerate(reversed(strides)):
                layers += residual_blocks(channels, i == 0)
                layers += [
                    nn.ELU(),
                    CausalConv1d(channels, channels * 2, stride * 2, stride=stride, **weight_norm),
                ]
                channels *= 2
            layers += [memory(channels), nn.ELU()]
            layers += [CausalConv1d(channels, latent_dim, last_kernel_size, **weight_norm)]
        else:
            channels = num_filters * 2 ** len(strides)
            layers += [CausalConv1d(latent_dim, channels, kernel_size, **weight_norm), memory(channels)]
            for i, stride in enumerate(strides):
                layers += [
                    nn.ELU(),
                    CausalConvTranspose1d(channels, channels // 2, stride * 2, stride, **weight_norm),
                ]
                channels //= 2
                layers += residual_blocks(channels, i == len(strides) - 1)
            layers += [nn.ELU()]
            layers += [
                CausalConv1d(
                    channels, audio_channels, last_kernel_size, dilation=audio_dilation, **weight_norm
                )
            ]
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: torch.Tensor, state: StreamingState | None = None
    ) -> tuple[torch.Tensor, StreamingState]:
        return stream_layers(self.layers, x, state)


class SEANetEncoder(SEANet):
    """Audio (batch, audio_channels, samples) to latents (batch, latent_dim, frames).

    Samples that do not fill a frame wait in the state for the next piece.
    """

    encodes = True


class SEANetDecoder(SEANet):
    """Latents (batch, latent_dim, frames) to audio (batch, audio_channels, samples): the encoder's mirror."""

    encodes = False


def stream_layers(
    layers: nn.ModuleList, x: torch.Tensor, state: StreamingState | None
) -> tuple[torch.Tensor, StreamingState]:
    """Run `layers` one after the other; each that has a memory finds it under its number in the list."""
    new_state = StreamingState()
    for i, layer in enumerate(layers):
        if isinstance(layer, (nn.ELU, nn.Identity)):
            x = layer(x)
        else:
            x, new_state[str(i)] = layer(x, None if state is None else state[str(i)])
    return x, new_state


def check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; use one of {', '.join(NORMS)}.")
