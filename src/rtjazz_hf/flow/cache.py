"""The key/value cache of what was played: state of a session, never of a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

_INTEGERS = ("num_layers", "num_heads", "head_dim", "patch_size", "window_frames", "block_frames")


@dataclass
class CachedBlock:
    """A block in the cache: its frames, and the slot of each of its tokens in playing order."""

    frames: int
    slots: list[int]


@dataclass
class CacheView:
    """
    What a block attends to, as views of the cache's buffers: slots of the past, then the block's own.

    The model writes the block's own keys and values into the last `tokens` slots, so that attention reads
    past and present as one tensor and nothing is joined.

    Args:
        keys, values: Of each layer, `(rows, heads, start + tokens, head_dim)`.
        mask: `(rows or 1, 1, 1 or tokens, start + tokens)`, true where a row may attend; `None` where every row may
            attend everywhere.
        start: First of the block's own slots.
        frames: Size of the block. tokens: The same in tokens, of both blocks where it has room for two.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    mask: torch.Tensor | None
    start: int
    frames: int
    tokens: int
    _past: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def past(self, slots: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Copies for engines that want the past as plain tensors: keys and values of all layers `(layers, rows, heads,
        slots, head_dim)`, at least so many slots, and the mask for them and the block's own, `(rows or 1, 1, 1 or
        tokens, slots + tokens)`.
        """
        if self._past is None:
            spare = max(slots - self.start, 0)  # nobody attends to them
            keys, values = self._joined(self.keys, spare), self._joined(self.values, spare)
            mask = self.mask
            if mask is None:
                mask = torch.ones(1, 1, 1, self.start + self.tokens, dtype=torch.bool, device=keys.device)
            if spare:
                past, own = mask.split((self.start, self.tokens), dim=-1)
                mask = torch.cat((F.pad(past, (0, spare)), own), dim=-1)
            self._past = keys, values, mask
        return self._past

    def _joined(self, layers: list[torch.Tensor], spare: int) -> torch.Tensor:
        """The past of all layers, and so many slots of zeros behind it: `(layers, rows, heads, slots, head_dim)`."""
        rows, heads, _, dim = layers[0].shape
        joined = layers[0].new_empty(len(layers), rows, heads, self.start + spare, dim)
        joined[:, :, :, self.start :] = 0
        for target, states in zip(joined.unbind(0), layers):
            target[:, :, : self.start] = states[:, :, : self.start]
        return joined


@dataclass(eq=False)
class FlowCache:
    """
    Keys and values of the clean blocks a new block may attend to, in buffers that are allocated once.

    Each layer has room for the window and two more blocks. The past fills the first slots without a gap and
    the block in the making comes right after it; when blocks fall out, the last tokens move into their place.
    So a finished block costs a copy of its own size at most, whatever the window. Attention does not mind
    the order: keys are stored rotated by their absolute frame, which stays exact for hours because the angles
    are computed in float64.

    Rows may stand at different frames of their streams, and may have heard different blocks: then, and only
    then, attention needs a mask. Blocks fall out whole, which is the rule that training's mask follows.

    Calls on one cache must not overlap: a forward pass uses the slots behind the past as its workspace.

    Args:
        num_layers, num_heads, head_dim: Of the transformer.
        patch_size: Frames a token.
        window_frames: Frames of context kept; the oldest blocks fall out when a new one would exceed it.
        positions: Frame that comes next, of each row.
        device: Where the buffers are.
        block_frames: The largest block that fits without growing the buffers.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    patch_size: int
    window_frames: int
    positions: tuple[int, ...]
    device: torch.device
    block_frames: int = 48
    # One layout for all rows while they are alike, else one a row.
    _layouts: list[list[CachedBlock]] = field(default_factory=lambda: [[]])
    # Of each layer (copies * batch, heads, slots, head_dim): row r serves rows r, r + batch, ... of a sample.
    _keys: list[torch.Tensor] = field(default_factory=list)
    _values: list[torch.Tensor] = field(default_factory=list)
    _views: dict[tuple, CacheView] = field(default_factory=dict)

    # -- what is in it -------------------------------------------------------------------------------------
    @property
    def batch_size(self) -> int:
        return len(self.positions)

    @property
    def position(self) -> torch.Tensor:
        """Frame that comes next, of each row: `(batch,)` int64 on the cache's device."""
        return torch.tensor(self.positions, dtype=torch.int64, device=self.device)

    @property
    def histories(self) -> list[tuple[int, ...]]:
        """Of each row, the frames of every block in the cache, oldest first."""
        histories = [tuple(block.frames for block in layout) for layout in self._layouts]
        return histories * self.batch_size if len(histories) == 1 else histories

    @property
    def blocks(self) -> tuple[int, ...]:
        """
        Frames of every block in the cache, oldest first.

        Raises:
            ValueError: The rows have heard different blocks; `histories` has those of each.
        """
        self._check_alike("blocks")
        return self.histories[0]

    @property
    def num_frames(self) -> int:
        """Frames of context in the cache; the most of any row."""
        return max(sum(history) for history in self.histories)

    @property
    def keys(self) -> list[torch.Tensor]:
        """Of each layer, `(batch, heads, tokens, head_dim)` in playing order: a copy. Empty before the first block."""
        return self._in_order(self._keys, "keys")

    @property
    def values(self) -> list[torch.Tensor]:
        """As `keys`."""
        return self._in_order(self._values, "values")

    def _in_order(self, buffers: list[torch.Tensor], name: str) -> list[torch.Tensor]:
        self._check_alike(name)
        order = _order(self._layouts[0])
        return [buffer[: self.batch_size, :, order] for buffer in buffers] if order else []

    def _check_alike(self, name: str) -> None:
        if len(self._layouts) > 1:
            raise ValueError(
                f"The rows have heard different blocks; select one row before asking for {name}."
            )

    # -- the model's side ----------------------------------------------------------------------------------
    def view(self, rows: int, frames: int, dtype: torch.dtype, fixed: bool = False, blocks: int = 1) -> CacheView:
        """
        Room for the next block beside the past, for `rows` rows of a sample (a multiple of the batch).

        Args:
            fixed: Leave room for a full window even while it fills, so that shapes never change; unused slots
                are masked.
            blocks: 2 leaves room for two: a finished block that is to join the past, and the one after it, which
                hears the finished one and not what falls out when that joins.
        """
        key = (rows, frames, dtype, fixed, blocks)
        if key not in self._views:
            lengths = [len(_order(layout)) for layout in self._layouts]
            start, tokens = max(lengths), blocks * frames // self.patch_size
            if fixed:
                start = max(start, self.window_frames // frames * (frames // self.patch_size))
            self._reserve(rows, start + tokens, dtype)
            mask = None
            if min(lengths) < start:
                slots = torch.arange(start + tokens, device=self.device)
                length = torch.tensor(lengths, device=self.device)[:, None]
                mask = ((slots < length) | (slots >= start))[:, None, None]
                if len(lengths) > 1:
                    mask = mask.repeat(rows // len(lengths), 1, 1, 1)
            keys, values = (
                [
                    buffer[:rows, :, : start + tokens].to(dtype) for buffer in buffers
                ]  # no copy in its own type
                for buffers in (self._keys, self._values)
            )
            if blocks > 1:
                mask = self._mask_of_two(rows, mask, start, tokens // 2)
            self._views[key] = CacheView(keys, values, mask, start, frames, tokens)
        return self._views[key]

    def _mask_of_two(self, rows: int, mask: torch.Tensor | None, start: int, tokens: int) -> torch.Tensor:
        """`mask` for the tokens of a finished block and of the next: `(rows or 1, 1, 2 * tokens, slots)`."""
        alike = len(self._layouts) == 1
        if mask is None:
            mask = torch.ones(1, 1, 1, start + 2 * tokens, dtype=torch.bool, device=self.device)
        mask = mask.repeat(1 if alike or len(mask) == rows else rows, 1, 2 * tokens, 1)
        mask[:, :, :tokens, start + tokens :] = False
        for row, layout in enumerate(self._layouts):
            left = self.window_frames - tokens * self.patch_size - sum(block.frames for block in layout)
            for block in layout:
                if left >= 0:
                    break
                mask[0 if alike else slice(row, None, self.batch_size), :, tokens:, block.slots] = False
                left += block.frames
            if left < 0:  # a window shorter than a block: nobody hears the finished one
                mask[0 if alike else slice(row, None, self.batch_size), :, tokens:, start : start + tokens] = False
        return mask

    def advance(self, view: CacheView) -> None:
        """Let the (first) block whose keys and values were written into `view` join the past; old ones fall out."""
        batch, start, tokens = self.batch_size, view.start, view.frames // self.patch_size
        for buffer, source in zip(self._keys + self._values, view.keys + view.values):
            own = source[:batch, :, start : start + tokens]
            for first in range(0, buffer.shape[0], batch):
                target = buffer[first : first + batch, :, start : start + tokens]
                if target.data_ptr() != own.data_ptr():  # copies for guidance, or another type
                    target.copy_(own)
        for row, layout in enumerate(self._layouts):
            rows = slice(None) if len(self._layouts) == 1 else slice(row, None, batch)
            layout.append(CachedBlock(view.frames, list(range(start, start + tokens))))
            while layout and sum(block.frames for block in layout) > self.window_frames:
                layout.pop(0)
            for source, target, count in _close_gaps(layout):
                for buffer in self._keys + self._values:
                    buffer[rows, :, target : target + count] = buffer[rows, :, source : source + count]
        self.positions = tuple(position + view.frames for position in self.positions)
        self._views.clear()
        if len(self._layouts) > 1 and len(set(self.histories)) == 1:  # rows that have become alike
            self._adopt(self.select(range(batch)))

    def _reserve(self, rows: int, slots: int, dtype: torch.dtype) -> None:
        """Buffers of at least `rows` and `slots`; more only where the first ones prove too small."""
        have = self._keys[0] if self._keys else None
        if have is not None and have.shape[0] >= rows and have.shape[2] >= slots:
            return
        slots = max(slots, (self.window_frames + 2 * self.block_frames) // self.patch_size)
        shape = (rows if have is None else max(rows, have.shape[0]), self.num_heads, slots, self.head_dim)
        used = max(len(_order(layout)) for layout in self._layouts)
        for buffers in (self._keys, self._values):
            old = list(buffers)
            # Zeros, because a masked slot still meets a weight of zero; no inference tensors, which could not
            # be written to outside of inference mode.
            with torch.inference_mode(False):
                buffers[:] = [
                    torch.zeros(shape, dtype=dtype if have is None else have.dtype, device=self.device)
                    for _ in range(self.num_layers)
                ]
            for before, after in zip(old, buffers):
                for first in range(0, shape[0], self.batch_size):
                    after[first : first + self.batch_size, :, :used] = before[: self.batch_size, :, :used]
        self._views.clear()

    # -- copies --------------------------------------------------------------------------------------------
    def clone(self) -> FlowCache:
        """An independent copy: another future from the same past."""
        return self.select(range(self.batch_size))

    def to(self, *args, **kwargs) -> FlowCache:
        """A copy on another device or in another floating point type; takes what `torch.Tensor.to` takes."""
        moved = self.clone()
        moved.device = torch.empty(0, device=self.device).to(*args, **kwargs).device
        moved._keys = [key.to(*args, **kwargs) for key in moved._keys]
        moved._values = [value.to(*args, **kwargs) for value in moved._values]
        return moved

    def select(self, rows: Sequence[int] | slice | torch.Tensor) -> FlowCache:
        """A copy of some rows of the batch, as caches of their own would have them."""
        if isinstance(rows, slice):
            rows = range(self.batch_size)[rows]
        rows = torch.arange(self.batch_size)[torch.as_tensor(list(rows))].tolist()  # masks, negative indices
        return self._gather([(self, row) for row in rows])

    @classmethod
    def stack(cls, caches: Sequence[FlowCache]) -> FlowCache:
        """
        One cache whose rows are copies of those of `caches`, whatever blocks they have heard.

        Raises:
            ValueError: No cache was given, or their windows or sizes differ.
        """
        if not caches:
            raise ValueError("No caches were given; stack needs at least one.")
        first = caches[0]
        for cache in caches:
            for name in _INTEGERS[:-1]:
                if getattr(cache, name) != getattr(first, name):
                    raise ValueError(
                        f"Caches of {name} {getattr(cache, name)} and {getattr(first, name)} cannot share a "
                        "batch; only positions and blocks may differ."
                    )
        return cls._gather([(cache, row) for cache in caches for row in range(cache.batch_size)])

    @classmethod
    def _gather(cls, parts: list[tuple[FlowCache, int]]) -> FlowCache:
        """Copies of rows `(cache, row)`, each with its blocks in playing order from slot 0."""
        first = parts[0][0]
        settings = {name: getattr(first, name) for name in _INTEGERS}
        settings["block_frames"] = max(cache.block_frames for cache, _ in parts)
        result = cls(
            positions=tuple(cache.positions[row] for cache, row in parts), device=first.device, **settings
        )
        layouts = [cache._layouts[row if len(cache._layouts) > 1 else 0] for cache, row in parts]
        result._layouts = [_packed(layout) for layout in layouts]
        if len(set(result.histories)) == 1:
            result._layouts = result._layouts[:1]
        filled = [cache._keys[0] for cache, _ in parts if cache._keys]
        if not filled:
            return result
        result._reserve(len(parts), filled[0].shape[2], filled[0].dtype)
        for index, ((cache, row), layout) in enumerate(zip(parts, layouts)):
            runs = _runs(_order(layout), range(result.window_frames))
            for target, source in zip(result._keys + result._values, cache._keys + cache._values):
                for begin, to, count in runs:
                    target[index, :, to : to + count] = source[row, :, begin : begin + count]
        return result

    def _adopt(self, other: FlowCache) -> None:
        self._layouts, self._keys, self._values = other._layouts, other._keys, other._values
        self._views.clear()

    # -- saving --------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, torch.Tensor | int]:
        """
        Tensors and ints that `from_state_dict` restores: what safetensors and JSON can hold.

        Returns:
            keys, values: `(layers, batch, heads, tokens, head_dim)` in playing order, zeros after a row's end.
            position: `(batch,)` int64. blocks: `(batch, blocks)` int64, frames, zeros after a row's last.
            slots: `(batch, tokens)` int64, where in the buffers each token lies: the order of attention's
                sums, so that a restored cache goes on to the bit.
            The integers that the class is made with, by their names.
        """
        packed = self.clone()
        histories = packed.histories
        tokens, most = packed.num_frames // self.patch_size, max(map(len, histories))
        empty = torch.zeros(self.batch_size, self.num_heads, tokens, self.head_dim, device=self.device)
        blocks = [[*history, *[0] * (most - len(history))] for history in histories]
        slots = [_order(layout) for layout in self._layouts] * (
            self.batch_size if len(self._layouts) == 1 else 1
        )
        slots = [[*row, *[0] * (tokens - len(row))] for row in slots]
        return {
            "slots": torch.tensor(slots, dtype=torch.int64).reshape(self.batch_size, tokens),
            "keys": torch.stack([key[:, :, :tokens] for key in packed._keys] or [empty] * self.num_layers),
            "values": torch.stack(
                [value[:, :, :tokens] for value in packed._values] or [empty] * self.num_layers
            ),
            "position": packed.position.cpu(),
            "blocks": torch.tensor(blocks, dtype=torch.int64).reshape(self.batch_size, most),
            **{name: getattr(self, name) for name in _INTEGERS},
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> FlowCache:
        """
        The cache that `state_dict` described, on the device and in the type of its tensors.

        Raises:
            ValueError: Something is missing, or the tensors do not fit together.
        """
        if missing := sorted({"keys", "values", "position", "blocks", *_INTEGERS} - state.keys()):
            raise ValueError(
                f"The state of a cache lacks {', '.join(missing)}; give what state_dict returned."
            )
        settings = {name: int(state[name]) for name in _INTEGERS}
        keys, values = state["keys"], state["values"]
        cache = cls(positions=tuple(state["position"].tolist()), device=keys.device, **settings)
        histories = [tuple(size for size in row if size) for row in state["blocks"].tolist()]
        tokens = max((sum(history) for history in histories), default=0) // cache.patch_size
        shape = (cache.num_layers, cache.batch_size, cache.num_heads, tokens, cache.head_dim)
        if keys.shape != shape or values.shape != shape or len(histories) != cache.batch_size:
            raise ValueError(
                f"The state of a cache has keys {tuple(keys.shape)}, values {tuple(values.shape)} and blocks "
                f"of {len(histories)} rows; its sizes and blocks ask for {shape}."
            )
        if any(sum(history) > cache.window_frames for history in histories):
            raise ValueError(
                f"The state of a cache has blocks beyond its window of {cache.window_frames} frames."
            )
        lengths = [sum(history) // cache.patch_size for history in histories]
        slots = torch.as_tensor(state.get("slots", torch.arange(tokens).repeat(len(histories), 1)))
        rows = [row[:length] for row, length in zip(slots.tolist(), lengths)]
        if any(sorted(row) != list(range(length)) for row, length in zip(rows, lengths)):
            raise ValueError("The state of a cache has slots that are no order of its tokens.")
        cache._layouts = [_in_slots(history, row, cache.patch_size) for history, row in zip(histories, rows)]
        if all(layout == cache._layouts[0] for layout in cache._layouts):
            cache._layouts = cache._layouts[:1]
        if tokens:
            cache._reserve(cache.batch_size, tokens, keys.dtype)
            for buffers, saved in ((cache._keys, keys), (cache._values, values)):
                for buffer, layer in zip(buffers, saved):
                    for row, order in enumerate(rows):
                        buffer[row, :, order] = layer[row, :, : len(order)]
        return cache


def _order(layout: list[CachedBlock]) -> list[int]:
    """Slots of the past in playing order."""
    return [slot for block in layout for slot in block.slots]


def _packed(layout: list[CachedBlock]) -> list[CachedBlock]:
    """The same blocks, in playing order from slot 0."""
    packed, start = [], 0
    for block in layout:
        packed.append(CachedBlock(block.frames, list(range(start, start + len(block.slots)))))
        start += len(block.slots)
    return packed


def _in_slots(history: Sequence[int], slots: Sequence[int], patch_size: int) -> list[CachedBlock]:
    """Blocks of `history` frames whose tokens lie in `slots`, in playing order."""
    layout, start = [], 0
    for frames in history:
        end = start + frames // patch_size
        layout.append(CachedBlock(frames, list(slots[start:end])))
        start = end
    return layout


def _close_gaps(layout: list[CachedBlock]) -> list[tuple[int, int, int]]:
    """
    Move the tokens that lie behind the past's length into the slots that are free before it.

    Changes the layout; returns the moves as `(first source, first target, count)`.
    """
    used = set(_order(layout))
    movers = sorted(slot for slot in used if slot >= len(used))
    if not movers:
        return []
    free = [slot for slot in range(len(used)) if slot not in used]
    place = dict(zip(movers, free))
    for block in layout:
        block.slots = [place.get(slot, slot) for slot in block.slots]
    return _runs(movers, free)


def _runs(sources: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int, int]]:
    """Pairs of slots as runs `(first source, first target, count)` of neighbours."""
    runs: list[tuple[int, int, int]] = []
    for source, target in zip(sources, targets):
        if runs and (source, target) == (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]):
            runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
        else:
            runs.append((source, target, 1))
    return runs


__all__ = ["FlowCache"]
