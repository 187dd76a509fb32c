"""The key/value cache of what was played: state of a session, never of a module."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class FlowCache:
    """
    Keys and values of the clean blocks a new block may attend to.

    Keys are stored rotated by their absolute frame, which stays exact for hours because the angles are
    computed in float64. Rows may stand at different frames of their streams; their blocks are of equal sizes.

    Args:
        num_layers: Layers of the transformer.
        window_frames: Frames of context kept; the oldest blocks fall out when a new one would exceed it.
        position: Frame that comes next, of each row: `(batch,)` int64.
        keys, values: Of each layer, `(batch, heads, tokens, head_dim)`; empty lists before the first block.
        blocks: Frames of every block in the cache, oldest first.
    """

    num_layers: int
    window_frames: int
    position: torch.Tensor
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    blocks: tuple[int, ...] = ()

    @property
    def batch_size(self) -> int:
        return self.position.shape[0]

    @property
    def num_frames(self) -> int:
        """Frames of context in the cache."""
        return sum(self.blocks)

    def append(self, keys: list[torch.Tensor], values: list[torch.Tensor], frames: int) -> None:
        """Add a block's keys and values `(batch, heads, tokens, head_dim)`; drop what leaves the window."""
        if len(keys) != self.num_layers or len(values) != self.num_layers:
            raise ValueError(
                f"keys and values of {len(keys)} layers were given; the cache has {self.num_layers}."
            )
        tokens_per_frame = keys[0].shape[2] / frames
        self.blocks = (*self.blocks, frames)
        while self.blocks and self.num_frames > self.window_frames:
            self.blocks = self.blocks[1:]
        kept = round(self.num_frames * tokens_per_frame)
        if self.keys:
            keys = [torch.cat((old, new), dim=2) for old, new in zip(self.keys, keys)]
            values = [torch.cat((old, new), dim=2) for old, new in zip(self.values, values)]
        self.keys = [key[:, :, key.shape[2] - kept :] for key in keys]
        self.values = [value[:, :, value.shape[2] - kept :] for value in values]
        self.position = self.position + frames

    def clone(self) -> FlowCache:
        """An independent copy: another future from the same past."""
        return self._map(torch.clone)

    def to(self, *args, **kwargs) -> FlowCache:
        """A copy on another device or in another floating point type."""
        position = self.position.to(*args, **kwargs).to(torch.int64)
        moved = self._map(lambda tensor: tensor.to(*args, **kwargs))
        moved.position = position
        return moved

    def select(self, rows: list[int] | slice | torch.Tensor) -> FlowCache:
        """The cache of some rows of the batch."""
        return self._map(lambda tensor: tensor[rows])

    @classmethod
    def stack(cls, caches: list[FlowCache]) -> FlowCache:
        """One cache whose rows are those of `caches`, which must hold blocks of the same sizes."""
        if not caches:
            raise ValueError("No caches were given; stack needs at least one.")
        first = caches[0]
        for cache in caches:
            if (cache.blocks, cache.window_frames) != (first.blocks, first.window_frames):
                raise ValueError(
                    f"Caches with blocks {cache.blocks} of window {cache.window_frames} and blocks "
                    f"{first.blocks} of window {first.window_frames} cannot share a batch; "
                    "their blocks and windows must be equal."
                )
        layers = range(len(first.keys))
        return cls(
            num_layers=first.num_layers,
            window_frames=first.window_frames,
            position=torch.cat([cache.position for cache in caches]),
            keys=[torch.cat([cache.keys[layer] for cache in caches]) for layer in layers],
            values=[torch.cat([cache.values[layer] for cache in caches]) for layer in layers],
            blocks=first.blocks,
        )

    def _map(self, function) -> FlowCache:
        return FlowCache(
            num_layers=self.num_layers,
            window_frames=self.window_frames,
            position=function(self.position),
            keys=[function(key) for key in self.keys],
            values=[function(value) for value in self.values],
            blocks=self.blocks,
        )


__all__ = ["FlowCache"]
