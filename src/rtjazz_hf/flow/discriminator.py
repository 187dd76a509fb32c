"""A discriminator for the adversarial finish of a flow: is this a take's, and is it what the conditions ask for?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from .embeddings import check_inputs, rotary_tables
from .layers import rms_norm

if TYPE_CHECKING:
    from .modeling_realtime_jazz_flow import RealTimeJazzFlowTransformer


class FlowDiscriminator(nn.Module):
    """
    A copy of a flow that hears whole clips, every frame every other, with small heads on what its layers hear.

    A trained flow knows already what takes are like at every time from noise to music, and which chart and notes they
    are of; so the copy begins where a network of its own would have to be brought first (as in arXiv:2301.09515 and
    arXiv:2505.08175). It is needed in training only.

    Args:
        transformer: Copied, up to the last of `layers`; not changed.
        layers: After which of its layers the heads read, counted from 1; by default at a half and three quarters.
        width: Channels of a head.

    Raises:
        ValueError: Layers that the flow does not have.
    """

    def __init__(
        self, transformer: RealTimeJazzFlowTransformer, layers: Sequence[int] | None = None, width: int = 128
    ):
        super().__init__()
        depth = len(transformer.layers)
        layers = sorted({-(-depth // 2), -(-3 * depth // 4)} if layers is None else set(layers))
        if not layers or layers[0] < 1 or layers[-1] > depth:
            raise ValueError(f"layers is {layers}; give some of 1 to {depth}, those of the flow.")
        self.layers = tuple(layers)
        self.body = copy.deepcopy(transformer).float().train().requires_grad_(True)
        self.body.layers = self.body.layers[: layers[-1]]
        self.body.head = nn.Identity()
        hidden = transformer.config.hidden_size
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(hidden, width, 3, padding=1), nn.SiLU(), nn.Conv1d(width, 1, 3, padding=1)
            )
            for _ in layers
        )

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, lead_sheet: torch.Tensor, style: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            sample: Takes or what a flow made, both noised to `timestep` `(batch,)`: `(batch, channels, frames)`.
            lead_sheet: `(batch, frames, feature_dim)`. style: `(batch, style_dim)`.

        Returns:
            Logits `(batch, heads, tokens)`: the higher, the more like a take under these conditions.
        """
        body = self.body
        timestep, lead_sheet, style = check_inputs(body.config, sample, timestep, lead_sheet, style)
        hidden = body._embed(sample, lead_sheet)[:, None]  # (batch, 1 block, tokens, hidden)
        condition, style_tokens = body._condition(timestep, style)
        rotary = rotary_tables(body.config, body._positions(sample.shape[-1]), hidden.dtype)
        modulation = body.modulation(condition)
        heads, logits = iter(self.heads), []
        for number, layer in enumerate(body.layers, 1):
            hidden = layer(hidden, condition, modulation, style_tokens, rotary)
            if number in self.layers:
                heard = rms_norm(hidden, body.config.rms_norm_eps)[:, 0].transpose(1, 2)
                logits.append(next(heads)(heard)[:, 0])
        return torch.stack(logits, dim=1)


__all__ = ["FlowDiscriminator"]
