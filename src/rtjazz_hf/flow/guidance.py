"""Classifier-free guidance (arXiv:2207.12598)."""

from __future__ import annotations

import torch


def apply_guidance(
    conditional: torch.Tensor, unconditional: torch.Tensor, scale: float | torch.Tensor
) -> torch.Tensor:
    """
    Velocity `(batch, channels, frames)` pushed away from the unconditional one: `scale` 1 is the conditional, 0 the
    unconditional.

    The push makes the velocity larger, and with it the music louder and its peaks sharper than was asked; so each row
    is scaled back to the deviation of its conditional velocity (arXiv:2305.08891, section 3.4).
    """
    scale = torch.as_tensor(scale, dtype=conditional.dtype, device=conditional.device)
    guided = torch.lerp(unconditional, conditional, scale)
    spread = guided.std((-2, -1), keepdim=True).clamp_min(1e-6)
    return guided * (conditional.std((-2, -1), keepdim=True) / spread)


__all__ = ["apply_guidance"]
