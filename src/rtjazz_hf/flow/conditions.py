"""What the steps of one block share: computed before the first of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class FlowConditions:
    """
    Everything a block's steps need besides the sample: made by `prepare_conditions`, taken by `forward`.

    Holds for one block of one batch: the rotary tables know the frames it will play at.

    Args:
        timesteps: `(steps, rows, blocks)` float32.
        lead_sheet: Its embedding `(rows, tokens, hidden)`; `None` in a model without one.
        modulation: `(steps, layers, 7, rows, blocks, 1, hidden)`: shift, 1 + scale and gate of the attention,
            gate of the cross-attention, shift, 1 + scale and gate of the MLP.
        head: `(steps, 2, rows, blocks, 1, hidden)`: shift and 1 + scale of the head.
        style_keys, style_values: `(layers, rows, heads, style tokens, head_dim)`.
        rotary: Cosines and sines `(rows or 1, tokens, 1, head_dim / 2)`.
    """

    timesteps: torch.Tensor
    lead_sheet: torch.Tensor | None
    modulation: torch.Tensor
    head: torch.Tensor
    style_keys: torch.Tensor
    style_values: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor]

    @property
    def num_steps(self) -> int:
        return self.timesteps.shape[0]


__all__ = ["FlowConditions"]
