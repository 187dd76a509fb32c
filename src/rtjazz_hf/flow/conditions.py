"""What the steps of one block share: computed before the first of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

CROSS_GATE = 3  # of the seven parts of a layer's modulation


@dataclass
class _OfOneBlock:
    """
    Args:
        timesteps: `(steps, rows, 1)` float32.
        frames: Of the block.
        positions: Where the rows of the cache stood; `None` without a cache.
    """

    timesteps: torch.Tensor
    frames: int
    positions: tuple[int, ...] | None

    @property
    def num_steps(self) -> int:
        return self.timesteps.shape[0]

    def are_of(self, frames: int, positions: tuple[int, ...] | None) -> bool:
        """Whether they were prepared for a block of this size at this place."""
        return (frames, positions) == (self.frames, self.positions)

    def check(self, rows: int, frames: int, positions: tuple[int, ...] | None) -> None:
        """
        Raises:
            ValueError: They were prepared for another block.
        """
        if rows != self.timesteps.shape[1] or not self.are_of(frames, positions):
            raise ValueError(
                f"The conditions were prepared for {self.timesteps.shape[1]} rows of {self.frames} frames at "
                f"positions {self.positions}; the block has {rows} of {frames} at {positions}. Prepare them anew for "
                "every block, with the cache that the steps are given."
            )


@dataclass
class CalledConditions(_OfOneBlock):
    """
    What was given to `prepare_conditions`, for a model whose modules have to be called: every step asks for all of it.

    Args:
        lead_sheet: `(rows or 1, frames, feature_dim)`. style: `(rows or 1, style_dim)`. `None` where none was given.
    """

    lead_sheet: torch.Tensor | None
    style: torch.Tensor | None


@dataclass
class FlowConditions(_OfOneBlock):
    """
    Everything a block's steps need besides the sample: made by `prepare_conditions`, taken by `forward`.

    Holds for one block of one batch: the rotary tables know the frames it will play at.

    Args:
        timesteps, frames, positions: Of the block.
        lead_sheet: Its embedding `(rows or 1, tokens, hidden)`; `None` in a model without one.
        modulation: `(layers, 7, steps, rows, 1, hidden)`: shift, 1 + scale and gate of the attention, gate of
            the cross-attention, shift, 1 + scale and gate of the MLP.
        clean_modulation: `(layers, 7, 1, 1, hidden)`, of the finished block, which has no style.
        head: `(2, steps, rows, 1, hidden)`: shift and 1 + scale of the head.
        style_keys, style_values: `(layers, rows, heads, style tokens, head_dim)`.
        norms: `norm_weights` of the layers. rotary: What `fold_rotary` made of them and the block's frames.
        style: What the style's part was made of, `(rows, style_dim)`. stamp: Of the model and its weights then.
    """

    lead_sheet: torch.Tensor | None
    modulation: torch.Tensor
    clean_modulation: torch.Tensor
    head: torch.Tensor
    style_keys: torch.Tensor
    style_values: torch.Tensor
    norms: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor]
    style: torch.Tensor
    stamp: tuple

    def of_step(self, step: int) -> dict[str, torch.Tensor | None]:
        """What one step is given of them, by the names of `steps.denoise_step`."""
        return {
            "lead_sheet": self.lead_sheet,
            "modulation": self.modulation[:, :, step],
            "head": self.head[:, step],
            "style_keys": self.style_keys,
            "style_values": self.style_values,
            "cos": self.rotary[0],
            "sin": self.rotary[1],
        }

    def of_both(self, heard: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        """
        What the first step is given with the finished block of the same size before the noisy one.

        The finished block has no lead sheet, and lets nothing of the style in.

        Args:
            heard: The rotary tables of the finished block.
        """
        given, tokens = self.of_step(0), heard[0].shape[2]
        clean = self.clean_modulation.clone()
        clean[:, CROSS_GATE] = 0
        noisy = given["modulation"]  # (layers, 7, rows, 1, hidden)
        given["modulation"] = torch.cat((clean.expand_as(noisy), noisy), dim=3)
        if self.lead_sheet is not None:
            given["lead_sheet"] = F.pad(self.lead_sheet, (0, 0, tokens, 0))
        rows = max(len(heard[0][0]), len(self.rotary[0][0]))
        for name, first, second in zip(("cos", "sin"), heard, self.rotary):
            given[name] = torch.cat([each.expand(-1, rows, *each.shape[2:]) for each in (first, second)], dim=2)
        return given

    def same_style(self, timesteps: torch.Tensor, style: torch.Tensor) -> bool:
        """Whether what they hold of time and style is that of these `(steps, rows, 1)` and `(rows, style_dim)`."""
        return (
            (timesteps.shape, style.shape) == (self.timesteps.shape, self.style.shape)
            and torch.equal(timesteps, self.timesteps)
            and torch.equal(style, self.style)
        )


__all__ = ["CalledConditions", "FlowConditions"]
