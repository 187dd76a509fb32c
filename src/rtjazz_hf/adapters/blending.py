"""One adapter of several, which can be saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..band import PhraseMemory
from .files import Adapter, LowRank

COMBINATIONS = ("cat", "svd")


def weighted_adapter(
    parts: Sequence[Adapter], weights: Sequence[float], how: str, svd_rank: int | None
) -> Adapter:
    """One adapter of the weighted sum of several' changes: exact ("cat"), or the nearest of a rank ("svd")."""
    layers, ranks = {}, {}
    for name in dict.fromkeys(name for part in parts for name in part.layers):
        terms = [(part.layers[name], weight) for part, weight in zip(parts, weights) if name in part.layers]
        down = torch.cat([term.down.float() for term, _ in terms])
        up = torch.cat([weight * term.scale * term.up.float() for term, weight in terms], dim=1)
        if how == "svd":
            rank = svd_rank or max(term.down.shape[0] for term, _ in terms)
            u, s, v = torch.linalg.svd(up @ down, full_matrices=False)
            root = s[:rank].sqrt()
            down, up = root[:, None] * v[:rank], u[:, :rank] * root
        ranks[name] = down.shape[0]
        layers[name] = LowRank(down.contiguous(), up.contiguous(), 1.0)
    rank = max(ranks.values())
    pattern = {name: own for name, own in ranks.items() if own != rank}
    first = parts[0].config
    config = {**first, "r": rank, "lora_alpha": rank, "rank_pattern": pattern, "alpha_pattern": dict(pattern),
              "use_rslora": False, "target_modules": sorted(layers)}  # fmt: skip
    styled = [(part.style, abs(w)) for part, w in zip(parts, weights) if part.style is not None and w]
    style = None
    if styled:
        style = F.normalize(sum(w * vector for vector, w in styled), dim=0)
    heard = [(part.phrases, w) for part, w in zip(parts, weights) if part.phrases is not None]
    phrases = PhraseMemory.mixed([memory for memory, _ in heard], [w for _, w in heard])
    return Adapter(layers, config, style, phrases=phrases)


__all__ = ["COMBINATIONS", "weighted_adapter"]
