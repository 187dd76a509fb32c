"""How one layer of EnCodec becomes one of ours, and what proves it.

An `Adaptation` edits a kernel, and says in signals what the edit must come to: for any signal `x`

    ours(own_in(x)) == out(theirs(source_in(x)))

so that the parity check runs both layers and never repeats the arithmetic of the edit. Several adaptations of
one layer are edited one after the other, and their signals composed. The kernels of a transposed convolution
are (in, out, taps), the others (out, in, taps).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import nn
from torch.nn import functional as F

Signal = Callable[[torch.Tensor], torch.Tensor]
Edit = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def same(x: torch.Tensor) -> torch.Tensor:
    return x


def hold(x: torch.Tensor) -> torch.Tensor:
    """Every sample twice: (..., n) -> (..., 2 n)."""
    return x.repeat_interleave(2, dim=-1)


def pair_mean(x: torch.Tensor) -> torch.Tensor:
    """(..., 2 n) -> (..., n)."""
    return x.unflatten(-1, (-1, 2)).mean(dim=-1)


@dataclass(frozen=True)
class Adaptation:
    """`edit` is None where the tensors stay as they are and only act in another place.

    `holds_future`: `theirs` is the layer as `without_future` runs it.
    """

    note: str
    edit: Edit | None = None
    source_in: Signal = same
    own_in: Signal = same
    out: Signal = same
    holds_future: bool = False


def compose(signals: Iterable[Signal]) -> Signal:
    return reduce(lambda first, then: lambda x: then(first(x)), signals, same)


# --- from 24 to 48 kHz ----------------------------------------------------------------------------------------
DILATED = Adaptation("dilation 2", own_in=hold, out=hold)


def stretch_down(stride: int) -> Adaptation:
    """The convolution out of the audio rate: the mean of what it made of even and of odd samples."""
    return Adaptation(
        f"stride {stride} to {2 * stride}: every tap halved and doubled",
        edit=lambda weight, bias: (hold(weight) / 2, bias),
        own_in=hold,
    )


def stretch_up(stride: int) -> Adaptation:
    """The transposed convolution into the audio rate: every sample is held for two."""
    return Adaptation(
        f"stride {stride} to {2 * stride}: every tap doubled",
        edit=lambda weight, bias: (hold(weight), bias),
        out=hold,
    )


# --- from mono to stereo --------------------------------------------------------------------------------------
STEREO_IN = Adaptation(
    "mono to the mean of left and right",
    edit=lambda weight, bias: (weight.repeat(1, 2, 1) / 2, bias),
    source_in=lambda x: x.mean(dim=1, keepdim=True),
)
STEREO_OUT = Adaptation(
    "mono to left and right alike",
    edit=lambda weight, bias: (weight.repeat(2, 1, 1), bias.repeat(2)),
    out=lambda y: y.repeat(1, 2, 1),
)


# --- from 150 to 75 frames a second ---------------------------------------------------------------------------
def halve_down(stride: int) -> Adaptation:
    """The convolution into the frame rate (taps: 2 strides): the mean of the two frames there were."""

    def edit(weight: torch.Tensor, bias: torch.Tensor):
        return (F.pad(weight, (stride, stride)) + F.pad(weight, (2 * stride, 0))) / 2, bias

    return Adaptation(f"stride {stride} to {2 * stride}: mean of two frames", edit, out=pair_mean)


def halve_up(stride: int) -> Adaptation:
    """The transposed convolution out of the frame rate: every frame stands for two."""

    def edit(weight: torch.Tensor, bias: torch.Tensor):
        return F.pad(weight, (0, 2 * stride)) + F.pad(weight, (stride, stride)), bias

    return Adaptation(f"stride {stride} to {2 * stride}: each frame twice", edit, source_in=hold)


def _halved_taps(weight: torch.Tensor, bias: torch.Tensor):
    newest = weight.flip(-1)  # taps by their lag
    halved = torch.zeros_like(newest)
    for lag in range(newest.shape[-1]):
        halved[..., lag // 2] += newest[..., lag] / 2  # seen from the later frame of a pair
        halved[..., (lag + 1) // 2] += newest[..., lag] / 2  # and from the earlier
    return halved.flip(-1), bias


HALVE_TAPS = Adaptation("taps pooled in pairs, for half the frames", _halved_taps, hold, same, pair_mean)


# --- from latents of hidden_size to fewer ---------------------------------------------------------------------
def project_out(basis: torch.Tensor) -> Adaptation:
    """Of the encoder's last convolution: latents in the orthonormal rows of `basis` (latent_dim, hidden_size)."""
    return Adaptation(
        f"{basis.shape[1]} latents projected on {basis.shape[0]} components",
        edit=lambda weight, bias: (torch.einsum("lh,hik->lik", basis, weight), basis @ bias),
        out=lambda y: basis @ y,
    )


def project_in(basis: torch.Tensor) -> Adaptation:
    return Adaptation(
        f"{basis.shape[1]} latents read from {basis.shape[0]} components",
        edit=lambda weight, bias: (torch.einsum("lh,ohk->olk", basis, weight), bias),
        source_in=lambda x: basis.T @ x,
    )


# --- from a level measured in every segment to a fixed one ----------------------------------------------------
def level_in(rms: float) -> Adaptation:
    """The source divided every segment by its RMS."""
    return Adaptation(
        f"input level fixed at an RMS of {rms:.3g}",
        edit=lambda weight, bias: (weight / rms, bias),
        source_in=lambda x: x / rms,
    )


def level_out(rms: float) -> Adaptation:
    return Adaptation(
        f"output level fixed at an RMS of {rms:.3g}",
        edit=lambda weight, bias: (weight * rms, bias * rms),
        out=lambda y: y * rms,
    )


class FixedNorm(nn.Module):
    """A `GroupNorm` of one group with the statistics that it had, on average, over calibration audio."""

    def __init__(self, norm: nn.GroupNorm, mean: float, variance: float):
        super().__init__()
        self.scale = norm.weight.detach() / math.sqrt(variance + norm.eps)  # (channels,)
        self.shift = norm.bias.detach() - mean * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale[:, None] + self.shift[:, None]


def fold_norm(norm: FixedNorm, transposed: bool) -> Adaptation:
    scale = norm.scale[None, :, None] if transposed else norm.scale[:, None, None]
    return Adaptation(
        "time_group_norm folded",
        edit=lambda weight, bias: (weight * scale, bias * norm.scale + norm.shift),
    )


# --- from a view of the future to none ------------------------------------------------------------------------
def look_ahead(conv: nn.Conv1d | nn.ConvTranspose1d) -> int:
    """Samples of its input (transposed: of its output) that EnCodec's layer without causality looks ahead."""
    span = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
    total = span - conv.stride[0]
    return total - total // 2 if isinstance(conv, nn.ConvTranspose1d) else total // 2


def hold_future(conv: nn.Conv1d | nn.ConvTranspose1d) -> Adaptation:
    """Taps that saw the future join the newest one: what is to come is taken to stay as it is now."""
    ahead, stride = look_ahead(conv), conv.stride[0]

    def edit(weight: torch.Tensor, bias: torch.Tensor):
        if isinstance(conv, nn.ConvTranspose1d):  # a frame no longer sounds before it is there
            early = F.pad(weight[..., :ahead], (stride - ahead, 0))
            return F.pad(weight[..., ahead:], (0, ahead)) + F.pad(early, (0, stride)), bias
        kept = F.pad(weight, (ahead, 0))
        kept, future = kept[..., : weight.shape[-1]], kept[..., weight.shape[-1] :]
        return torch.cat([kept[..., :-1], kept[..., -1:] + future.sum(-1, keepdim=True)], dim=-1), bias

    return Adaptation("future taps joined to the newest", edit, holds_future=True)


def without_future(layer: nn.Module) -> Signal:
    """EnCodec's layer, run once for each moment with all that comes after it held at its newest value."""
    conv = layer.conv
    transposed = isinstance(conv, nn.ConvTranspose1d)
    step_in, step_out = (1, conv.stride[0]) if transposed else (conv.stride[0], 1)
    future = 1 if transposed else math.ceil(look_ahead(conv) / step_in) * step_in

    def run(x: torch.Tensor) -> torch.Tensor:
        outputs = []
        for step in range(x.shape[-1] // step_in):
            seen = x[..., : (step + 1) * step_in]
            y = layer(torch.cat([seen, seen[..., -1:].expand(*seen.shape[:-1], future)], dim=-1))
            outputs.append(y[..., step * step_out : (step + 1) * step_out])
        return torch.cat(outputs, dim=-1)

    return run


def delay(samples: int) -> Adaptation:
    """The kernel as it is, which answers later by what it looked ahead."""
    return Adaptation(
        f"answers {samples} samples later",
        source_in=lambda x: F.pad(x, (samples, 0)),
        out=lambda y: y[..., : y.shape[-1] - samples],
    )


# --- which layer needs which ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Plan:
    """Where the source differs from a 48 kHz stereo codec of 75 frames a second that hears no future."""

    mono: bool
    stretched: bool  # 24 kHz
    halved: bool  # 150 frames a second
    looks_ahead: bool
    fixed_norms: bool
    rms: float  # level of the calibration audio where the source measures it, else 1
    basis: torch.Tensor | None  # (latent_dim, hidden_size) where latents are projected

    @property
    def whole_is_exact(self) -> bool:
        return not (self.halved or self.looks_ahead or self.fixed_norms)

    def adaptations(self, layers: nn.ModuleList, index: int, layer: nn.Module) -> list[Adaptation]:
        """Of the convolution `layer` of the source, in place `index` of its encoder's or decoder's `layers`."""
        conv, stride, last = layer.conv, layer.conv.stride[0], index == len(layers) - 1
        transposed = isinstance(conv, nn.ConvTranspose1d)
        strided = [i for i, other in enumerate(layers) if hasattr(other, "conv") and other.conv.stride[0] > 1]
        encodes = isinstance(layers[strided[0]].conv, nn.Conv1d)
        audio, frames = (strided[0], strided[-1]) if encodes else (strided[-1], strided[0])
        hears, speaks = encodes and index == 0, not encodes and last
        to_latents, from_latents = encodes and last, not encodes and index == 0

        found = []
        if isinstance(getattr(layer, "norm", None), nn.Module):
            found.append(fold_norm(layer.norm, transposed))
        if self.looks_ahead and look_ahead(conv):
            found.append(delay(look_ahead(conv)) if hears or speaks else hold_future(conv))
        if self.halved and index == frames:
            found.append(halve_down(stride) if encodes else halve_up(stride))
            stride *= 2
        if self.halved and (to_latents or from_latents):
            found.append(HALVE_TAPS)
        if self.basis is not None and (to_latents or from_latents):
            found.append(project_out(self.basis) if to_latents else project_in(self.basis))
        if self.stretched and index == audio:
            found.append(stretch_down(stride) if encodes else stretch_up(stride))
        elif self.stretched and (index < audio if encodes else index > audio):
            found.append(DILATED)
        if self.rms != 1.0 and (hears or speaks):
            found.append(level_in(self.rms) if hears else level_out(self.rms))
        if self.mono and (hears or speaks):
            found.append(STEREO_IN if hears else STEREO_OUT)
        return found


# --- tensors --------------------------------------------------------------------------------------------------
def edited(
    conv: nn.Conv1d | nn.ConvTranspose1d, adaptations: list[Adaptation]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight, with the weight norm multiplied in, and bias of `conv` after all edits."""
    weight, bias = conv.weight.detach(), conv.bias.detach()
    for adaptation in adaptations:
        if adaptation.edit is not None:
            weight, bias = adaptation.edit(weight, bias)
    return weight, bias


@torch.no_grad()
def write_normed(conv: nn.Conv1d | nn.ConvTranspose1d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Split `weight` into the two tensors of the weight norm of `conv`, magnitude and direction."""
    if conv.weight.shape != weight.shape:
        raise ValueError(
            f"a kernel of {tuple(weight.shape)} does not fit a layer of {tuple(conv.weight.shape)}"
        )
    parts = conv.parametrizations.weight
    magnitude = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
    parts.original0.copy_(magnitude)
    # A silent channel has no direction; any other than zero keeps 0 / 0 away.
    parts.original1.copy_(torch.where(magnitude > 0, weight, 1.0))
    conv.bias.copy_(bias)
