"""Classifier-free guidance (arXiv:2207.12598)."""

from __future__ import annotations

import torch


def apply_guidance(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Velocity pushed away from the unconditional one: `scale` 1 is the conditional, 0 the unconditional."""
    return torch.lerp(unconditional, conditional, scale)


__all__ = ["apply_guidance"]
