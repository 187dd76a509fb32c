"""Causal layers whose memory is passed in and out: `y, state = layer(x, state)`.

State belongs to the stream, never to the module: many streams share one model. `state=None` starts a stream.
Every layer gives the same output for a whole signal and for any split of it fed in pieces, to float rounding.
The state of a layer is one tensor whose first dimension is the batch; the state of a model is a
`StreamingState`. Nothing is updated in place: an old state may be kept and resumed from.

The layers hold their weights in a submodule `conv`, as transformers' EnCodec does, so that tensors carry
over by name. EnCodec pads the start of a clip by reflection, which looks ahead; a stream has no future, so
here the time before its start is silence (zeros).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm as apply_weight_norm


@dataclass
class StreamingState:
    """The memory of a stream inside one model: layer name -> tensor, or -> the state of a nested module.

    Every tensor is batch first, so that streams can be joined (`cat`) and taken apart (`select`).
    """

    entries: dict[str, torch.Tensor | StreamingState] = field(default_factory=dict)

    def __getitem__(self, name: str) -> torch.Tensor | StreamingState:
        if name not in self.entries:
            raise ValueError(
                f"This streaming state has no layer {name!r}; it has {sorted(self.entries)}. "
                "Pass a state returned by the same model, or None to start a stream."
            )
        return self.entries[name]

    def __setitem__(self, name: str, entry: torch.Tensor | StreamingState) -> None:
        self.entries[name] = entry

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __len__(self) -> int:
        return len(self.entries)

    def tensors(self) -> Iterator[torch.Tensor]:
        """All tensors, those of nested states included, in the order of the layers."""
        for entry in self.entries.values():
            if isinstance(entry, StreamingState):
                yield from entry.tensors()
            else:
                yield entry

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> StreamingState:
        """A new state with `function` applied to every tensor."""
        return StreamingState(
            {
                name: entry.map(function) if isinstance(entry, StreamingState) else function(entry)
                for name, entry in self.entries.items()
            }
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StreamingState:
        """A copy on `device`; floating tensors become `dtype`, counters keep their integer type."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self.map(move)

    def clone(self) -> StreamingState:
        return self.map(torch.Tensor.clone)

    def detach(self) -> StreamingState:
        return self.map(torch.Tensor.detach)

    def select(self, index: int | slice | torch.Tensor) -> StreamingState:
        """The streams at `index` of the batch (an int keeps a batch of one)."""
        if isinstance(index, int):
            index = torch.tensor([index])
        return self.map(lambda tensor: tensor[index.to(tensor.device) if torch.is_tensor(index) else index])

    @classmethod
    def cat(cls, states: list[StreamingState]) -> StreamingState:
        """Join the streams of several states of one model into one batch."""
        if not states:
            raise ValueError("StreamingState.cat needs at least one state, got an empty list.")
        joined = cls()
        for name, entry in states[0].entries.items():
            parts = [state[name] for state in states]
            if isinstance(entry, StreamingState):
                joined[name] = cls.cat(parts)
            else:
                joined[name] = torch.cat(parts, dim=0)
        return joined


class StatefulConv(nn.Module):
    """What both convolutions have: the weights in `conv`, and a state that is zeros where a stream starts.

    Args:
        conv: torch's convolution, without padding.
        state_shape: channels and samples of the state.
        weight_norm: weight normalisation over the first dimension of the weight (Salimans and Kingma, 2016).
    """

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d, state_shape: tuple[int, int], weight_norm: bool):
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.stride, self.state_shape = conv.stride[0], state_shape
        self.conv = apply_weight_norm(conv) if weight_norm else conv

    def init_state(self, batch_size: int, device=None, dtype=None) -> torch.Tensor:
        """What a stream starts with: zeros (batch, *state_shape)."""
        return torch.zeros(batch_size, *self.state_shape, device=device, dtype=dtype)

    def forward(
        self, x: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, in_channels, samples) -> (batch, out_channels, samples), state."""
        return self.step(x, self.init_state(x.shape[0], x.device, x.dtype) if state is None else state)

    def step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError


class CausalConv1d(StatefulConv):
    """A 1-d convolution that sees the present and the past only.

    The state is the input that later outputs still need: `(kernel_size - 1) * dilation + 1 - stride` samples,
    plus the samples of an unfinished stride where a piece did not end on one. So `n` samples fed in all, in
    whatever pieces, give `n // stride` output samples. It starts as the silence before a stream.

    Args:
        kernel_size (`int`): its span `(kernel_size - 1) * dilation + 1` must be at least `stride`.
        groups (`int`): `in_channels` for a depthwise convolution.
        weight_norm (`bool`): over each output channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        weight_norm: bool = False,
    ):
        span = (kernel_size - 1) * dilation + 1
        if span < stride:
            raise ValueError(
                f"kernel_size={kernel_size} with dilation={dilation} spans {span} samples, less than "
                f"stride={stride}: samples would be skipped. Use a kernel of at least the stride."
            )
        conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups, bias=bias
        )
        super().__init__(conv, (in_channels, span - stride), weight_norm)
        self.span, self.padding = span, span - stride

    def step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, in_channels, samples) -> (batch, out_channels, samples // stride), state."""
        x = torch.cat([state, x], dim=-1)
        steps = (x.shape[-1] - self.padding) // self.stride
        # A copy: a slice would keep the memory of the whole piece alive as long as the stream.
        state = x[..., steps * self.stride :].clone()
        if steps == 0:
            return x.new_zeros(x.shape[0], self.out_channels, 0), state
        y = self.conv(x[..., : (steps - 1) * self.stride + self.span])
        return y, state


class CausalConvTranspose1d(StatefulConv):
    """A transposed 1-d convolution: `n` frames in, `n * stride` samples out.

    What the last frame adds to samples that are not out yet, `kernel_size - stride` of them, is the state;
    the next piece starts by adding it. Equals EnCodec's causal layer with `trim_right_ratio=1`.

    Args:
        kernel_size (`int`): at least `stride`.
        weight_norm (`bool`): over each input channel, as EnCodec has it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        weight_norm: bool = False,
    ):
        if kernel_size < stride:
            raise ValueError(
                f"kernel_size={kernel_size} is less than stride={stride}: some samples would get nothing. "
                "Use a kernel of at least the stride."
            )
        conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
        super().__init__(conv, (out_channels, kernel_size - stride), weight_norm)
        self.tail = kernel_size - stride

    def step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, in_channels, frames) -> (batch, out_channels, frames * stride), state."""
        frames = x.shape[-1]
        if frames == 0:
            return x.new_zeros(x.shape[0], self.out_channels, 0), state
        # Without the bias: samples in the tail are summed over two calls, and would get it twice.
        y = F.conv_transpose1d(x, self.conv.weight, None, self.stride, groups=self.conv.groups)
        if self.tail:
            # F.pad, not +=: the sum must not disturb autograd, and the tail may be longer than this piece.
            y = y + F.pad(state.to(y.dtype), (0, y.shape[-1] - self.tail))
        state = y[..., frames * self.stride :].clone()
        y = y[..., : frames * self.stride]
        if self.conv.bias is not None:
            y = y + self.conv.bias[:, None]
        return y, state


def remove_weight_norm(module: nn.Module) -> nn.Module:
    """Fold every weight normalisation inside `module` into plain weights, in place; outputs stay the same.

    Wanted before adapters are attached: merging LoRA into a parametrised layer is a silent no-op in peft.
    """
    # A list: removing a parametrisation changes the tree that is walked.
    for child in list(module.modules()):
        if parametrize.is_parametrized(child, "weight"):
            # Deep copies share the class that torch made for the parametrisation, and removing it from one
            # (an averaged copy, say) would break the other: give this module a class of its own first.
            shared = type(child)
            child.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
            parametrize.remove_parametrizations(child, "weight", leave_parametrized=True)
    return module
